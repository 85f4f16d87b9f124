#include "train/vae_task.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>
#include <wanpar/core/agreement.hpp>

#include "train/noise.hpp"
#include "wan/io/pixels.hpp"
#include "wan/io/png.hpp"
#include "wan/io/write_checkpoint.hpp"

namespace wan::train {
namespace {

/// Differences between neighbours in height and width.
at::Tensor differences(const at::Tensor& error) {
  const auto along = [&](int64_t dimension) { return at::diff(error, 1, dimension).abs().mean(); };
  return along(3) + along(4);
}

constexpr int64_t kShown = 4;  // clips on a sheet

/// Three frames of each of the first clips above those of its copy: [height, width, 3] uint8.
at::Tensor sheet_of(const at::Tensor& clips, const at::Tensor& copies) {
  std::vector<at::Tensor> rows;
  for (const auto* videos : {&clips, &copies}) {
    std::vector<at::Tensor> cells;
    const auto last = videos->size(2) - 1;
    for (int64_t i = 0; i < std::min(kShown, videos->size(0)); ++i)
      for (const auto frame : {int64_t{0}, last / 2, last})
        cells.push_back(to_pixels(videos->select(0, i).select(1, frame)));
    rows.push_back(at::cat(cells, 1));
  }
  return at::cat(rows, 0);
}

}  // namespace

at::Tensor psnr(const at::Tensor& frames, const at::Tensor& expected) {
  return 10 * at::log10(4 / (frames - expected).square().mean({1, 2, 3, 4}));
}

std::vector<at::Tensor> VaeTask::losses(Trainee& trainee, const Share& share) {
  std::vector<Scene> scenes;
  std::vector<View> views;
  for (int64_t i = share.first; i < share.first + share.count; ++i) {
    const auto index = static_cast<uint64_t>((share.step - 1) * share.all + i);
    scenes.push_back(scene_of(options_.seed, index));
    views.push_back(
        close_view(scenes.back(), options_.clip, options_.side, options_.frames, options_.seed, index));
  }
  const auto frames = draw(scenes, views, options_.device);
  const auto noise = noise_for(
      share, {config_.channels, (options_.frames - 1) / 4 + 1, options_.side / 8, options_.side / 8},
      options_.seed, Stream::vae_noise, options_.device);
  const auto made = trainee({frames, options_.noise * noise});
  const auto exact = [](const at::Tensor& x) { return x.to(at::promote_types(x.scalar_type(), at::kFloat)); };
  const auto error = exact(made[0]) - frames;
  const auto square = error.square().mean(), edges = differences(error),
             latents = exact(made[1]).square().mean();
  const auto loss = error.abs().mean() + square + options_.edges * edges + options_.penalty * latents;
  const auto one = [](const at::Tensor& x) { return x.view({1}); };
  return {one(loss), one(square), one(edges), one(latents)};
}

std::string VaeTask::sample(Trainee& trainee, const wanpar::Communicator& world, int64_t step,
                            const std::filesystem::path& folder) {
  std::vector<at::Tensor> clips, copies, latents;
  for (int64_t i = 0; i < options_.samples; ++i) {
    const auto clip =
        draw({scene_of(options_.seed, kUnseen + static_cast<uint64_t>(i))}, {options_.clip}, options_.device);
    const auto side = options_.clip.side / 8, parts = (options_.clip.frames - 1) / 4 + 1;
    const auto made = trainee({clip, at::zeros({1, config_.channels, parts, side, side}, clip.options())});
    clips.push_back(clip);
    copies.push_back(made[0].to(clip.scalar_type()).clamp(-1, 1));
    latents.push_back(made[1].to(at::kFloat));
  }
  const auto clip = at::cat(clips), copy = at::cat(copies), latent = at::cat(latents);
  const auto values = [&](const at::Tensor& x) {
    const auto y = x.to(at::kCPU, at::kDouble).contiguous();
    return std::vector<double>(y.const_data_ptr<double>(), y.const_data_ptr<double>() + y.numel());
  };
  config_.mean = values(latent.mean({0, 2, 3, 4}));
  config_.std = values(latent.transpose(0, 1).flatten(1).std(1).clamp_min(1e-3));
  wanpar::all_or_none(world, [&] {
    if (world.rank() == 0)
      write_png(folder / fmt::format("samples_{}.png", step), sheet_of(clip.to(at::kCPU), copy.to(at::kCPU)));
  });
  return fmt::format("{} unseen clips at {:.2f} dB", options_.samples,
                     psnr(copy, clip).mean().item<double>());
}

void VaeTask::write(const NamedTensors& weights, const std::filesystem::path& checkpoint) {
  NamedWeights halves;
  for (const auto& [name, tensor] : weights) halves[name] = tensor.to(at::kHalf);
  write_vae(checkpoint, config_, halves);
}

}  // namespace wan::train
