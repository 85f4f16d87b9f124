#include "wan/demo/checkpoint.hpp"

#include "wan/config.hpp"
#include "wan/demo/vocabulary.hpp"
#include "wan/demo/weights.hpp"
#include "wan/io/write_checkpoint.hpp"

namespace wan::demo {
namespace {

constexpr TransformerConfig kTransformer = {
    .dim = 128, .heads = 4, .layers = 2, .ffn_dim = 256, .text_dim = 64};
constexpr TextEncoderConfig kTextEncoder = {
    .dim = 64, .heads = 4, .head_dim = 16, .ffn_dim = 128, .layers = 2, .vocabulary = 512};
constexpr int64_t kVaeWidth = 12;
constexpr double kShift = 3;

}  // namespace

void write_checkpoint(const std::filesystem::path& folder) {
  const VaeConfig vae = {.base_dim = kVaeWidth};
  write_transformer(folder, kTransformer, transformer_weights(kTransformer));
  write_vae(folder, vae, vae_weights(vae));
  write_text_encoder(folder, kTextEncoder, text_encoder_weights(kTextEncoder));
  write_tokenizer(folder, vocabulary());
  write_scheduler(folder, kShift);
  write_index(folder);  // last: where it is, all is there
}

}  // namespace wan::demo
