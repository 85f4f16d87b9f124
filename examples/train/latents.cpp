#include "train/latents.hpp"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ostream.h>

#include <algorithm>
#include <wanpar/core/agreement.hpp>
#include <wanpar/files/safetensors.hpp>

#include "train/text_bytes.hpp"
#include "wan/io/configs.hpp"
#include "wan/io/keys.hpp"
#include "wan/io/load.hpp"
#include "wan/vae/encoder.hpp"

namespace wan::train {
namespace {

/// Clips that are encoded at once. They are always the same, so that the number of ranks changes no rounding.
constexpr int64_t kTogether = 16;

std::vector<double> doubles(const at::Tensor& x) {
  const auto y = x.to(at::kCPU, at::kDouble).contiguous();
  return {y.const_data_ptr<double>(), y.const_data_ptr<double>() + y.numel()};
}

/// Scenes [first, last), as the VAE's own statistics normalise them.
at::Tensor encode(VaeEncoder& vae, const View& clip, uint64_t seed, int64_t first, int64_t last,
                  at::Device device, std::ostream* log) {
  at::NoGradGuard no_grad;
  const auto& config = vae->config();
  std::vector<at::Tensor> parts = {at::empty(
      {0, config.channels, (clip.frames - 1) / 4 + 1, clip.side / 8, clip.side / 8}, at::device(device))};
  for (int64_t begin = first; begin < last; begin += kTogether) {
    std::vector<Scene> scenes;
    for (int64_t i = begin; i < std::min(begin + kTogether, last); ++i)
      scenes.push_back(scene_of(seed, static_cast<uint64_t>(i)));
    parts.push_back(vae->encode(draw(scenes, std::vector(scenes.size(), clip), device)).to(at::kFloat));
    const auto done = begin + kTogether - first;
    if (log && done * 10 / (last - first) != (done - kTogether) * 10 / (last - first))
      fmt::print(*log, "{} of {} clips encoded\n", std::min(done, last - first), last - first);
    if (log) log->flush();
  }
  return at::cat(parts);
}

}  // namespace

TrainedVae read_vae(const std::filesystem::path& folder) {
  const auto config = folder / "checkpoint" / "vae" / "config.json";
  const auto file = folder / "checkpoint" / "vae" / "diffusion_pytorch_model.safetensors";
  TrainedVae vae{.config = diffusers_vae_config(Settings(config)), .weights = {}};
  for (const auto& [name, tensor] : wanpar::read_safetensors(file))
    vae.weights[official_name(Part::vae, name, vae.config.residual_blocks)] = {tensor, file, name};
  return vae;
}

Latents encode_scenes(const wanpar::Communicator& world, const TrainedVae& vae, const View& clip,
                      uint64_t seed, int64_t clips, at::Device device, const std::filesystem::path& file,
                      const std::string& source, std::ostream& log) {
  std::map<std::string, at::Tensor> kept;
  wanpar::all_or_none(world, [&] {
    if (std::filesystem::exists(file)) kept = wanpar::read_safetensors(file);
  });
  const auto is_of_source = kept.contains("source") && kept.at("source").equal(bytes_of(source));
  if (wanpar::on_any_rank(world, !is_of_source)) {
    VaeEncoder encoder(vae.config);
    wanpar::all_or_none(world, [&] {
      load(*encoder, vae.weights, {.device = device, .ignore_prefixes = {"decoder.", "conv2."}});
    });
    const auto border = [&](int64_t rank) {
      const auto groups = (clips + kTogether - 1) / kTogether;
      return std::min(clips, kTogether * (groups * rank / world.size()));
    };
    std::vector<int64_t> sizes;
    for (int rank = 0; rank < world.size(); ++rank) sizes.push_back(border(rank + 1) - border(rank));
    const auto mine = encode(encoder, clip, seed, border(world.rank()), border(world.rank() + 1), device,
                             world.rank() == 0 ? &log : nullptr);
    const auto all = world.all_gather(mine.contiguous(), 0, sizes).get();
    // The VAE's own statistics are of few clips; these are of all.
    const auto channels = all.transpose(0, 1).flatten(1);
    const auto mean = channels.mean(1), std = channels.std(1).clamp_min(1e-3);
    const auto each = [](const at::Tensor& x) { return x.view({1, -1, 1, 1, 1}); };
    const auto old_mean = at::tensor(vae.config.mean, mean.options()),
               old_std = at::tensor(vae.config.std, mean.options());
    kept = {{"values", ((all - each(mean)) / each(std)).to(at::kHalf)},
            {"mean", (mean * old_std + old_mean).to(at::kDouble)},
            {"std", (std * old_std).to(at::kDouble)},
            {"source", bytes_of(source)}};
    wanpar::all_or_none(world, [&] {
      if (world.rank() == 0) wanpar::write_safetensors(file, kept);
    });
  }
  return {.values = kept.at("values").to(device),
          .mean = doubles(kept.at("mean")),
          .std = doubles(kept.at("std"))};
}

}  // namespace wan::train
