#include "train/flow_task.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <wanpar/core/agreement.hpp>

#include "train/captions.hpp"
#include "train/noise.hpp"
#include "train/random.hpp"
#include "train/shapes.hpp"
#include "wan/io/load.hpp"
#include "wan/io/pixels.hpp"
#include "wan/io/png.hpp"
#include "wan/io/write_checkpoint.hpp"
#include "wan/pipeline/sampling.hpp"
#include "wan/scheduler/flow.hpp"
#include "wan/scheduler/scheduler.hpp"
#include "wan/text/negative_prompt.hpp"
#include "wan/vae/decoder.hpp"

namespace wan::train {
namespace {

/// What begins with `prefix`, without it.
NamedWeights half_of(const NamedTensors& weights, const std::string& prefix) {
  NamedWeights part;
  for (const auto& [name, tensor] : weights)
    if (name.starts_with(prefix)) part[name.substr(prefix.size())] = tensor.to(at::kHalf);
  return part;
}

/// Five frames of each video, a video a row.
at::Tensor sheet_of(const at::Tensor& videos) {
  constexpr int64_t kShown = 5;
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < videos.size(0); ++i) {
    std::vector<at::Tensor> cells;
    for (int64_t k = 0; k < kShown; ++k)
      cells.push_back(to_pixels(videos.select(0, i).select(1, (videos.size(2) - 1) * k / (kShown - 1))));
    rows.push_back(at::cat(cells, 1));
  }
  return at::cat(rows, 0);
}

}  // namespace

FlowTask::FlowTask(TextEncoderConfig text_encoder, TransformerConfig transformer, TrainedVae vae,
                   Latents latents, Tokenizer tokenizer, FlowTaskOptions options)
    : text_encoder_(text_encoder),
      transformer_(transformer),
      vae_(std::move(vae)),
      latents_(std::move(latents)),
      tokenizer_(std::move(tokenizer)),
      options_(std::move(options)) {
  vae_.config.mean = latents_.mean, vae_.config.std = latents_.std;
  std::vector<std::string> texts;
  for (int64_t i = 0; i < latents_.values.size(0); ++i) {
    const auto scene = scene_of(options_.seed, static_cast<uint64_t>(i));
    texts.push_back(scene.caption);
    (scene.objects.size() > 1 ? pairs_ : single_).push_back(i);
  }
  if (options_.pairs && (pairs_.empty() || single_.empty()))
    throw wanpar::AgreedError(fmt::format("--pairs {}: of {} clips {} show two objects; raise --clips",
                                          *options_.pairs, latents_.values.size(0),
                                          pairs_.empty() ? "none" : "all"));
  texts.push_back("");
  texts.push_back(kNegativePrompt);
  captions_ = tokens_of(tokenizer_, texts, options_.device);
}

int64_t FlowTask::choose(Random& random) const {
  if (!options_.pairs) return random.below(latents_.values.size(0));
  const auto& among = random.chance(*options_.pairs) ? pairs_ : single_;
  return among[static_cast<size_t>(random.below(static_cast<int64_t>(among.size())))];
}

std::vector<at::Tensor> FlowTask::losses(Trainee& trainee, const Share& share) {
  const auto all = latents_.values.size(0);
  std::vector<int64_t> clips, captions;
  std::vector<double> sigmas, timesteps;
  for (int64_t i = share.first; i < share.first + share.count; ++i) {
    Random random(options_.seed, Stream::choices, static_cast<uint64_t>((share.step - 1) * share.all + i));
    clips.push_back(choose(random));
    sigmas.push_back(shifted(random.between(0, 1), options_.shift));
    timesteps.push_back(1000 * sigmas.back());
    captions.push_back(clips.back());
    // Guidance may be away from an empty text, as in diffusers, or from Wan's negative prompt.
    if (random.chance(options_.caption_dropout)) captions.back() = all + random.below(2);
  }
  const auto on_device = at::TensorOptions(options_.device);
  const auto chosen = at::tensor(clips, at::kLong).to(options_.device);
  const auto latents = latents_.values.index_select(0, chosen).to(at::kFloat);
  const auto noise =
      noise_for(share, latents.sizes().slice(1), options_.seed, Stream::flow_noise, options_.device);
  const auto sigma = at::tensor(sigmas, at::kDouble).to(on_device.dtype(at::kFloat)).view({-1, 1, 1, 1, 1});
  const auto timestep = at::tensor(timesteps, at::kDouble).to(on_device.dtype(at::kFloat));
  const auto texts = at::tensor(captions, at::kLong).to(options_.device);
  const auto ids = captions_.ids.index_select(0, texts), mask = captions_.mask.index_select(0, texts);

  const auto velocity = trainee({at::lerp(latents, noise, sigma), timestep, ids, mask})[0];
  const auto exact = velocity.to(at::promote_types(velocity.scalar_type(), at::kFloat));
  return {(exact - (noise - latents)).square().mean().view({1})};
}

std::string FlowTask::sample(Trainee& trainee, const wanpar::Communicator& world, int64_t step,
                             const std::filesystem::path& folder) {
  const auto count = static_cast<int64_t>(options_.prompts.size());
  auto texts = options_.prompts;
  texts.insert(texts.end(), options_.prompts.size(), kNegativePrompt);
  const auto tokens = tokens_of(tokenizer_, texts, options_.device);
  const Velocity guided = [&](const at::Tensor& latents, double timestep) {
    const auto times = at::full({2 * count}, timestep, latents.options());
    const auto both =
        trainee({at::cat({latents, latents}), times, tokens.ids, tokens.mask})[0].to(at::kFloat).chunk(2, 0);
    return at::lerp(both[1], both[0], options_.guidance);
  };
  const auto noise =
      noise_for({.step = 0, .first = 0, .count = count, .all = count}, latents_.values.sizes().slice(1),
                options_.seed, Stream::flow_noise, options_.device);
  const auto scheduler = make_scheduler("unipc", options_.sample_steps, options_.shift);
  const auto latents = wan::sample(noise, *scheduler, guided);

  wanpar::all_or_none(world, [&] {
    if (world.rank() != 0) return;
    Vae vae(vae_.config);
    load(*vae, vae_.weights, {.device = options_.device, .ignore_prefixes = {"encoder.", "conv1."}});
    write_png(folder / fmt::format("samples_{}.png", step), sheet_of(vae->decode(latents).to(at::kCPU)));
  });
  return fmt::format("samples_{}.png has {} prompts", step, count);
}

void FlowTask::write(const NamedTensors& weights, const std::filesystem::path& checkpoint) {
  NamedWeights vae;
  for (const auto& [name, entry] : vae_.weights) vae[name] = entry.tensor;
  write_vae(checkpoint, vae_.config, vae);
  write_transformer(checkpoint, transformer_, half_of(weights, "transformer."));
  write_text_encoder(checkpoint, text_encoder_, half_of(weights, "text_encoder."));
  write_scheduler(checkpoint, options_.shift);
  write_index(checkpoint);
}

}  // namespace wan::train
