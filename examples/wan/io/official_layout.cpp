#include "wan/io/official_layout.hpp"

#include <fmt/format.h>

#include <wanpar/extend/files/mapped_file.hpp>

#include "wan/io/configs.hpp"
#include "wan/io/folder.hpp"
#include "wan/io/pickle.hpp"
#include "wan/io/shards.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

namespace fs = std::filesystem;

Weights read_pth_weights(const fs::path& file) {
  Weights weights;
  for (auto& [name, tensor] : read_pth(file)) weights.emplace(name, Entry{tensor, file, name});
  return weights;
}

Contents open_official(const fs::path& folder) {
  Contents all;
  const auto vae = folder / "Wan2.1_VAE.pth", text_encoder = folder / "models_t5_umt5-xxl-enc-bf16.pth";
  const Settings config(folder / "config.json");
  if (!config.has("model_type"))
    throw wanpar::Error(config.file() + " does not describe a Wan model: it has no 'model_type'");
  check_official(config);
  if (wanpar::is_there(folder / "Wan2.2_VAE.pth") && !wanpar::is_there(vae))
    throw wanpar::Error(fmt::format(
        "{} has the VAE of Wan2.2 5B, which is not built; only Wan2.1 text-to-video is", folder.string()));
  for (const auto& file : {vae, text_encoder}) require_file(file);

  all.transformer = read_shards(folder, "diffusion_pytorch_model");
  all.transformer_config = official_transformer_config(config, all.transformer);
  all.vae = read_pth_weights(vae);
  all.vae_config = official_vae_config(all.vae);
  check_sizes(all.vae_config, vae.string(), all.vae);
  config.must_be("in_dim", all.vae_config.channels, "the channels of the latents of " + vae.string());
  check_sizes(all.transformer_config, config, all.transformer);
  all.text_encoder = read_pth_weights(text_encoder);
  all.text_encoder_config = text_encoder_config(all.text_encoder);
  all.tokenizer = tokenizer_in(folder / "google" / "umt5-xxl");
  return all;
}

std::string official_name_in_file(Part, const std::string& official, const VaeConfig&) { return official; }

}  // namespace

Layout official_layout() {
  return {"official", "config.json", "Wan-AI", open_official, official_name_in_file};
}

}  // namespace wan
