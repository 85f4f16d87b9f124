#include "wan/demo/checkpoint.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>
#include <wanpar/core/error.hpp>

#include "wan/config.hpp"
#include "wan/demo/vocabulary.hpp"
#include "wan/demo/weights.hpp"
#include "wan/io/keys.hpp"
#include "wan/io/new_file.hpp"
#include "wan/io/safetensors.hpp"

namespace wan::demo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Tensors = std::map<std::string, at::Tensor>;

constexpr TransformerConfig kTransformer = {
    .dim = 128, .heads = 4, .layers = 2, .ffn_dim = 256, .text_dim = 64};
constexpr TextEncoderConfig kTextEncoder = {
    .dim = 64, .heads = 4, .head_dim = 16, .ffn_dim = 128, .layers = 2, .vocabulary = 512};
constexpr int64_t kVaeWidth = 12;

void write_text(const fs::path& path, std::string_view text) {
  PartFile part(path);
  NewFile file(part);
  file.write(text);
  file.close();
  part.commit();
}

void write_json(const fs::path& path, const Json& json) { write_text(path, json.dump(2) + "\n"); }

void write_weights(const fs::path& path, Part part, const Tensors& weights) {
  Tensors renamed;
  for (const auto& [name, tensor] : weights) renamed[diffusers_name(part, name)] = tensor;
  write_safetensors(path, renamed, {{"format", "pt"}});
}

Json component(const char* library, const char* name) { return Json::array({library, name}); }

void write_index(const fs::path& folder) {
  write_json(folder / "model_index.json", {{"_class_name", "WanPipeline"},
                                           {"scheduler", component("diffusers", "UniPCMultistepScheduler")},
                                           {"text_encoder", component("transformers", "UMT5EncoderModel")},
                                           {"tokenizer", component("transformers", "T5TokenizerFast")},
                                           {"transformer", component("diffusers", "WanTransformer3DModel")},
                                           {"vae", component("diffusers", "AutoencoderKLWan")}});
}

void write_transformer(const fs::path& folder) {
  const auto& config = kTransformer;
  write_json(folder / "config.json", {{"_class_name", "WanTransformer3DModel"},
                                      {"num_attention_heads", config.heads},
                                      {"attention_head_dim", config.head_dim()},
                                      {"in_channels", config.in_channels},
                                      {"out_channels", config.out_channels},
                                      {"text_dim", config.text_dim},
                                      {"freq_dim", config.freq_dim},
                                      {"ffn_dim", config.ffn_dim},
                                      {"num_layers", config.layers},
                                      {"patch_size", {1, 2, 2}},
                                      {"cross_attn_norm", true},
                                      {"qk_norm", "rms_norm_across_heads"},
                                      {"eps", config.eps}});
  write_weights(folder / "diffusion_pytorch_model.safetensors", Part::transformer,
                transformer_weights(config));
}

void write_vae(const fs::path& folder) {
  const VaeConfig config = {.base_dim = kVaeWidth};
  write_json(folder / "config.json",
             {{"_class_name", "AutoencoderKLWan"},
              {"base_dim", config.base_dim},
              {"z_dim", config.channels},
              {"dim_mult", config.multipliers},
              {"num_res_blocks", config.residual_blocks},
              {"temperal_downsample", config.temporal_downsample},  // diffusers' spelling
              {"latents_mean", config.mean},
              {"latents_std", config.std}});
  write_weights(folder / "diffusion_pytorch_model.safetensors", Part::vae, vae_weights(config));
}

void write_text_encoder(const fs::path& folder) {
  const auto& config = kTextEncoder;
  write_json(folder / "config.json", {{"architectures", {"UMT5EncoderModel"}},
                                      {"model_type", "umt5"},
                                      {"vocab_size", config.vocabulary},
                                      {"d_model", config.dim},
                                      {"d_kv", config.head_dim},
                                      {"d_ff", config.ffn_dim},
                                      {"num_layers", config.layers},
                                      {"num_heads", config.heads},
                                      {"relative_attention_num_buckets", config.buckets},
                                      {"relative_attention_max_distance", config.max_distance},
                                      {"layer_norm_epsilon", config.eps},
                                      {"feed_forward_proj", "gated-gelu"}});
  write_weights(folder / "model.safetensors", Part::text_encoder, text_encoder_weights(config));
}

void write_scheduler(const fs::path& folder) {
  write_json(folder / "scheduler_config.json", {{"_class_name", "UniPCMultistepScheduler"},
                                                {"flow_shift", 3.0},
                                                {"prediction_type", "flow_prediction"},
                                                {"use_flow_sigmas", true}});
}

fs::path made(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw wanpar::Error(fmt::format("{} cannot be made: {}", folder.string(), error.message()));
  return folder;
}

}  // namespace

void write_checkpoint(const fs::path& folder) {
  write_transformer(made(folder / "transformer"));
  write_vae(made(folder / "vae"));
  write_text_encoder(made(folder / "text_encoder"));
  write_text(made(folder / "tokenizer") / "spiece.model", vocabulary());
  write_scheduler(made(folder / "scheduler"));
  write_index(folder);  // last: where it is, all is there
}

}  // namespace wan::demo
