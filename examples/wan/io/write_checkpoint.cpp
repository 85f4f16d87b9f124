#include "wan/io/write_checkpoint.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/new_file.hpp>
#include <wanpar/files/safetensors.hpp>

#include "wan/io/keys.hpp"
#include "wan/text/vocabulary.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

void write_json(const fs::path& path, const Json& json) { wanpar::write_text(path, json.dump(2) + "\n"); }

void write_weights(const fs::path& path, Part part, const NamedWeights& weights,
                   int64_t residual_blocks = 2) {
  NamedWeights renamed;
  for (const auto& [name, tensor] : weights) renamed[diffusers_name(part, name, residual_blocks)] = tensor;
  wanpar::write_safetensors(path, renamed, {{"format", "pt"}});
}

Json component(const char* library, const char* name) { return Json::array({library, name}); }

fs::path made(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw wanpar::Error(fmt::format("{} cannot be made: {}", folder.string(), error.message()));
  return folder;
}

}  // namespace

void write_index(const fs::path& folder) {
  write_json(folder / "model_index.json",
             {{"_class_name", "WanPipeline"},
              {"scheduler", component("diffusers", "UniPCMultistepScheduler")},
              {"text_encoder", component("transformers", "UMT5EncoderModel")},
              {"tokenizer", component("transformers", "PreTrainedTokenizerFast")},
              {"transformer", component("diffusers", "WanTransformer3DModel")},
              {"vae", component("diffusers", "AutoencoderKLWan")}});
}

void write_transformer(const fs::path& checkpoint, const TransformerConfig& config,
                       const NamedWeights& weights) {
  const auto folder = made(checkpoint / "transformer");
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
  write_weights(folder / "diffusion_pytorch_model.safetensors", Part::transformer, weights);
}

void write_vae(const fs::path& checkpoint, const VaeConfig& config, const NamedWeights& weights) {
  const auto folder = made(checkpoint / "vae");
  write_json(folder / "config.json",
             {{"_class_name", "AutoencoderKLWan"},
              {"base_dim", config.base_dim},
              {"z_dim", config.channels},
              {"dim_mult", config.multipliers},
              {"num_res_blocks", config.residual_blocks},
              {"temperal_downsample", config.temporal_downsample},  // diffusers' spelling
              {"latents_mean", config.mean},
              {"latents_std", config.std}});
  write_weights(folder / "diffusion_pytorch_model.safetensors", Part::vae, weights, config.residual_blocks);
}

void write_text_encoder(const fs::path& checkpoint, const TextEncoderConfig& config,
                        const NamedWeights& weights) {
  const auto folder = made(checkpoint / "text_encoder");
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
  write_weights(folder / "model.safetensors", Part::text_encoder, weights);
}

void write_scheduler(const fs::path& checkpoint, double shift) {
  const auto folder = made(checkpoint / "scheduler");
  write_json(folder / "scheduler_config.json", {{"_class_name", "UniPCMultistepScheduler"},
                                                {"flow_shift", shift},
                                                {"prediction_type", "flow_prediction"},
                                                {"use_flow_sigmas", true}});
}

void write_tokenizer(const fs::path& checkpoint, const Unigram::Pieces& vocabulary) {
  const auto folder = made(checkpoint / "tokenizer");
  write_json(folder / "tokenizer_config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                                {"bos_token", "<s>"},
                                                {"eos_token", "</s>"},
                                                {"pad_token", "<pad>"},
                                                {"unk_token", "<unk>"}});
  wanpar::write_text(folder / "tokenizer.json", tokenizer_json(vocabulary));
  wanpar::write_text(folder / "spiece.model",
                     sentencepiece_model(vocabulary));  // last: where it is, all is there
}

}  // namespace wan
