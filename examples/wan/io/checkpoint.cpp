#include "wan/io/checkpoint.hpp"

#include <fmt/format.h>

#include "wan/io/configs.hpp"
#include "wan/io/json.hpp"
#include "wan/io/keys.hpp"
#include "wan/io/mapped_file.hpp"
#include "wan/io/pickle.hpp"
#include "wan/io/shards.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;

Weights with_official_names(const Weights& weights, Part part) {
  Weights renamed;
  for (const auto& [name, entry] : weights) {
    // Some files hold the tied embedding under both of its names.
    if (name == "encoder.embed_tokens.weight" && weights.contains("shared.weight")) continue;
    const auto official = official_name(part, name);
    if (renamed.emplace(official, entry).second) continue;
    throw wanpar::Error(
        fmt::format("{}: '{}' is there twice, as '{}' too", entry.file.string(), official, name));
  }
  return renamed;
}

Weights read_pth_weights(const fs::path& file) {
  Weights weights;
  for (auto& [name, tensor] : read_pth(file)) weights.emplace(name, Entry{tensor, file});
  return weights;
}

void require(const fs::path& path) {
  if (!fs::exists(path)) throw wanpar::Error(path.string() + " is missing; download it");
}

fs::path present(const fs::path& file) {
  require(file);
  MappedFile::open(file);  // so that a pointer to the file is not taken for it
  return file;
}

std::optional<double> flow_shift_of(const fs::path& folder) {
  const auto file = folder / "scheduler" / "scheduler_config.json";
  if (!fs::exists(file)) return std::nullopt;
  const auto config = read_json(file);
  for (const auto* key :
       {"flow_shift", "shift"}) {  // UniPC and DPM++ have the one, flow matching Euler the other
    if (config.contains(key)) return value_at<double>(config, key, file.string());
  }
  return std::nullopt;
}

/// Throws unless model_index.json describes a pipeline that turns text into video with a single transformer.
void check_pipeline(const fs::path& file) {
  const auto index = read_json(file);
  const auto name = value_at<std::string>(index, "_class_name", file.string());
  if (name != "WanPipeline") {
    throw wanpar::Error(fmt::format("{}: the pipeline is '{}'; only 'WanPipeline', Wan text-to-video, runs",
                                    file.string(), name));
  }
  const auto second = index.find("transformer_2");
  if (second != index.end() && second->is_array() && !second->empty() && !second->front().is_null()) {
    throw wanpar::Error(file.string() + ": models with two transformers (Wan2.2 A14B) do not run yet");
  }
}

Layout layout_of(const fs::path& folder) {
  if (!fs::is_directory(folder)) {
    throw wanpar::Error(
        fmt::format("{} is not a folder; give the folder of a Wan checkpoint", folder.string()));
  }
  if (fs::exists(folder / "model_index.json")) return Layout::diffusers;
  if (fs::exists(folder / "config.json")) return Layout::official;
  throw wanpar::Error(fmt::format(
      "{} is not a Wan checkpoint: it has neither model_index.json (diffusers) nor config.json (Wan-AI)",
      folder.string()));
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : layout_(layout_of(folder)) {
  layout_ == Layout::diffusers ? open_diffusers(folder) : open_official(folder);
}

void Checkpoint::open_diffusers(const fs::path& folder) {
  check_pipeline(folder / "model_index.json");
  const auto transformer = folder / "transformer", vae = folder / "vae";
  for (const auto& config : {transformer / "config.json", vae / "config.json"}) require(config);

  transformer_config_ = diffusers_transformer_config(read_json(transformer / "config.json"),
                                                     (transformer / "config.json").string());
  vae_config_ = diffusers_vae_config(read_json(vae / "config.json"), (vae / "config.json").string());
  transformer_ = with_official_names(read_shards(transformer, "diffusion_pytorch_model"), Part::transformer);
  vae_ = with_official_names(read_shards(vae, "diffusion_pytorch_model"), Part::vae);
  text_encoder_ = with_official_names(read_shards(folder / "text_encoder", "model"), Part::text_encoder);
  text_encoder_config_ = wan::text_encoder_config(text_encoder_);
  tokenizer_ = present(folder / "tokenizer" / "spiece.model");
  flow_shift_ = flow_shift_of(folder);
}

void Checkpoint::open_official(const fs::path& folder) {
  const auto config = folder / "config.json", vae = folder / "Wan2.1_VAE.pth";
  const auto text_encoder = folder / "models_t5_umt5-xxl-enc-bf16.pth";
  const auto json = read_json(config);
  if (!json.contains("model_type")) {
    throw wanpar::Error(config.string() + " does not describe a Wan model: it has no 'model_type'");
  }
  for (const auto& file : {vae, text_encoder}) require(file);

  transformer_ = read_shards(folder, "diffusion_pytorch_model");
  transformer_config_ = official_transformer_config(json, config.string(), transformer_);
  vae_ = read_pth_weights(vae);
  vae_config_ = official_vae_config(vae_);
  text_encoder_ = read_pth_weights(text_encoder);
  text_encoder_config_ = wan::text_encoder_config(text_encoder_);
  tokenizer_ = present(folder / "google" / "umt5-xxl" / "spiece.model");
}

}  // namespace wan
