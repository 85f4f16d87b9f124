#include "wan/io/diffusers_layout.hpp"

#include <fmt/format.h>

#include <wanpar/extend/files/mapped_file.hpp>

#include "wan/io/configs.hpp"
#include "wan/io/folder.hpp"
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

Contents open_diffusers(const fs::path& folder) {
  Contents all;
  check_pipeline(folder);
  const auto transformer = settings_of(folder / "transformer" / "config.json");
  const auto vae = settings_of(folder / "vae" / "config.json");
  all.transformer_config = diffusers_transformer_config(transformer);
  all.vae_config = diffusers_vae_config(vae);
  transformer.must_be("in_channels", all.vae_config.channels, "the 'z_dim' of " + vae.file());

  const auto* stem = "diffusion_pytorch_model";
  all.transformer = with_official_names(read_shards(folder / "transformer", stem), Part::transformer);
  all.vae = with_official_names(read_shards(folder / "vae", stem), Part::vae, all.vae_config.residual_blocks);
  check_sizes(all.transformer_config, transformer, all.transformer);
  check_sizes(all.vae_config, vae.file(), all.vae);
  const auto encoder = folder / "text_encoder";
  all.text_encoder = with_official_names(read_shards(encoder, "model"), Part::text_encoder);
  all.text_encoder_config =
      wanpar::is_there(encoder / "config.json")
          ? diffusers_text_encoder_config(Settings(encoder / "config.json"), all.text_encoder)
          : text_encoder_config(all.text_encoder);
  all.tokenizer = tokenizer_in(folder / "tokenizer");
  all.flow_shift = flow_shift_of(folder);
  return all;
}

std::string diffusers_name_in_file(Part part, const std::string& official, const VaeConfig& vae) {
  return diffusers_name(part, official, vae.residual_blocks);
}

}  // namespace

Layout diffusers_layout() {
  return {"diffusers", "model_index.json", "diffusers", open_diffusers, diffusers_name_in_file};
}

}  // namespace wan
