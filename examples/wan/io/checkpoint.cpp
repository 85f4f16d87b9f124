#include "wan/io/checkpoint.hpp"

#include <fmt/format.h>

#include <system_error>
#include <wanpar/extend/files/mapped_file.hpp>

#include "wan/io/configs.hpp"
#include "wan/io/pickle.hpp"
#include "wan/io/shards.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;

Weights with_official_names(const Weights& weights, Part part, int64_t residual_blocks = 2) {
  Weights renamed;
  for (const auto& [name, entry] : weights) {
    // Some files hold the tied embedding under both of its names.
    if (name == "encoder.embed_tokens.weight" && weights.contains("shared.weight")) continue;
    const auto official = official_name(part, name, residual_blocks);
    const auto [there, is_new] = renamed.emplace(official, entry);
    if (is_new) continue;
    throw wanpar::Error(fmt::format("{}: '{}' and '{}' are names of one tensor; leave one of them out",
                                    entry.file.string(), there->second.name, name));
  }
  return renamed;
}

Weights read_pth_weights(const fs::path& file) {
  Weights weights;
  for (auto& [name, tensor] : read_pth(file)) weights.emplace(name, Entry{tensor, file, name});
  return weights;
}

void require(const fs::path& path) {
  if (!wanpar::is_there(path)) throw wanpar::Error(path.string() + " is missing; download it");
}

Settings settings_of(const fs::path& file) {
  require(file);
  return Settings(file);
}

bool is_folder(const fs::path& path) {
  std::error_code no;
  return fs::is_directory(path, no);
}

/// As transformers chooses it: tokenizer.json goes before the SentencePiece model that it was made from.
fs::path tokenizer_in(const fs::path& folder) {
  for (const auto* name : {"tokenizer.json", "spiece.model"})
    if (wanpar::is_there(folder / name)) return folder / name;
  throw wanpar::Error(
      fmt::format("{} is missing, and so is tokenizer.json; download one of them, the repository "
                  "google/umt5-xxl has both",
                  (folder / "spiece.model").string()));
}

constexpr const char* kTwoExperts =
    "a model with two transformers, as Wan2.2 A14B, which is not built; give a Wan2.1 text-to-video "
    "checkpoint";

std::optional<double> flow_shift_of(const fs::path& folder) {
  const auto file = folder / "scheduler" / "scheduler_config.json";
  if (!wanpar::is_there(file)) return std::nullopt;
  const Settings config(file);
  config.must_be("prediction_type", "flow_prediction", "Wan's model predicts the flow");
  for (const auto* key :
       {"flow_shift", "shift"})  // UniPC and DPM++ have the one, flow matching Euler the other
    if (config.has(key)) return config.amount(key, {0.001, 1000});
  return std::nullopt;
}

/// Throws unless model_index.json describes a pipeline that turns text into video with a single transformer.
void check_pipeline(const fs::path& folder) {
  const Settings index(folder / "model_index.json");
  if (const auto name = index.text("_class_name"); name != "WanPipeline")
    index.refuse("_class_name", "'WanPipeline': only Wan text-to-video is built");
  const auto second = index.item("transformer_2");  // [null, null] is how diffusers says that there is none
  if (!second.is_array() || (!second.empty() && !second.front().is_null()))
    index.must_not_be("transformer_2", kTwoExperts);
  index.must_not_be("boundary_ratio", kTwoExperts);
  index.must_be("expand_timesteps", false, "this is Wan2.2 TI2V-5B, and only Wan2.1 text-to-video is built");
  if (is_folder(folder / "transformer_2"))
    throw wanpar::Error(fmt::format("{} is there: {}", (folder / "transformer_2").string(), kTwoExperts));
}

Layout layout_of(const fs::path& folder) {
  if (!is_folder(folder))
    throw wanpar::Error(
        fmt::format("{} is not a folder; give the folder of a Wan checkpoint", folder.string()));
  if (wanpar::is_there(folder / "model_index.json")) return Layout::diffusers;
  if (is_folder(folder / "high_noise_model") || is_folder(folder / "low_noise_model"))
    throw wanpar::Error(fmt::format("{} is {}", folder.string(), kTwoExperts));
  if (wanpar::is_there(folder / "config.json")) return Layout::official;
  throw wanpar::Error(fmt::format(
      "{} is not a Wan checkpoint: it has neither model_index.json (diffusers) nor config.json (Wan-AI)",
      folder.string()));
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : layout_(layout_of(folder)) {
  layout_ == Layout::diffusers ? open_diffusers(folder) : open_official(folder);
}

void Checkpoint::open_diffusers(const fs::path& folder) {
  check_pipeline(folder);
  const auto transformer = settings_of(folder / "transformer" / "config.json");
  const auto vae = settings_of(folder / "vae" / "config.json");
  transformer_config_ = diffusers_transformer_config(transformer);
  vae_config_ = diffusers_vae_config(vae);
  transformer.must_be("in_channels", vae_config_.channels, "the 'z_dim' of " + vae.file());

  const auto* stem = "diffusion_pytorch_model";
  transformer_ = with_official_names(read_shards(folder / "transformer", stem), Part::transformer);
  vae_ = with_official_names(read_shards(folder / "vae", stem), Part::vae, vae_config_.residual_blocks);
  check_sizes(transformer_config_, transformer, transformer_);
  check_sizes(vae_config_, vae.file(), vae_);
  const auto encoder = folder / "text_encoder";
  text_encoder_ = with_official_names(read_shards(encoder, "model"), Part::text_encoder);
  text_encoder_config_ = wanpar::is_there(encoder / "config.json")
                             ? diffusers_text_encoder_config(Settings(encoder / "config.json"), text_encoder_)
                             : wan::text_encoder_config(text_encoder_);
  tokenizer_ = tokenizer_in(folder / "tokenizer");
  flow_shift_ = flow_shift_of(folder);
}

void Checkpoint::open_official(const fs::path& folder) {
  const auto vae = folder / "Wan2.1_VAE.pth", text_encoder = folder / "models_t5_umt5-xxl-enc-bf16.pth";
  const Settings config(folder / "config.json");
  if (!config.has("model_type"))
    throw wanpar::Error(config.file() + " does not describe a Wan model: it has no 'model_type'");
  check_official(config);
  if (wanpar::is_there(folder / "Wan2.2_VAE.pth") && !wanpar::is_there(vae))
    throw wanpar::Error(fmt::format(
        "{} has the VAE of Wan2.2 5B, which is not built; only Wan2.1 text-to-video is", folder.string()));
  for (const auto& file : {vae, text_encoder}) require(file);

  transformer_ = read_shards(folder, "diffusion_pytorch_model");
  transformer_config_ = official_transformer_config(config, transformer_);
  vae_ = read_pth_weights(vae);
  vae_config_ = official_vae_config(vae_);
  check_sizes(vae_config_, vae.string(), vae_);
  config.must_be("in_dim", vae_config_.channels, "the channels of the latents of " + vae.string());
  check_sizes(transformer_config_, config, transformer_);
  text_encoder_ = read_pth_weights(text_encoder);
  text_encoder_config_ = wan::text_encoder_config(text_encoder_);
  tokenizer_ = tokenizer_in(folder / "google" / "umt5-xxl");
}

std::string Checkpoint::name_in_file(Part part, const std::string& official) const {
  return layout_ == Layout::diffusers ? diffusers_name(part, official, vae_config_.residual_blocks)
                                      : official;
}

}  // namespace wan
