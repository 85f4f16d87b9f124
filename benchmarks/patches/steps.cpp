// One step of a sampler by displaced patches, beside what else ranks can do, and how much of its transfer is
// hidden behind it.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/strategy/patch_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/local.hpp>

#include <cmath>

#include "slow.hpp"
#include "tables.hpp"
#include "wan/model/transformer.hpp"

namespace {

constexpr int kSteps = 7, kWarmUp = 2;
const std::vector<int64_t> kLatents = {1, 16, 5, 32, 48};  // 1,920 tokens
const wan::TransformerConfig kConfig{
    .dim = 768, .heads = 12, .layers = 4, .ffn_dim = 2048, .text_dim = 256, .text_len = 64};

const wan::Transformer& transformer() {
  static const auto made = [] {
    wan::Transformer model(kConfig);
    uint64_t seed = 1;
    for (auto& parameter : model->parameters())
      parameter.copy_(random(parameter.sizes(), seed++) / std::sqrt(static_cast<double>(parameter.size(-1))));
    return model;
  }();
  return made;
}

/// Seconds of a step, after the first ones: the median of several, of the first rank.
using Step = std::function<void(int64_t step, const at::Tensor& latents)>;
double step_seconds(int ranks, int threads, const std::function<Step(wanpar::Communicator)>& prepare) {
  std::vector<double> taken;
  const auto latents = random(kLatents, 7), change = random(kLatents, 8);
  wanpar::local::run(ranks, [&](wanpar::Communicator world) {
    at::set_num_threads(threads);
    const auto run = prepare(world);
    for (int step = 0; step < kSteps; ++step) {
      world.barrier();
      const auto one = seconds([&] { run(step, latents + 0.01 * step * change); });
      if (world.rank() == 0 && step >= kWarmUp) taken.push_back(one);
    }
  });
  return median(taken);
}

template <class Model>
void forward(Model& model, const at::Tensor& latents) {
  static const auto text = random({1, kConfig.text_len, kConfig.text_dim}, 9);
  model(latents, at::full({1}, 500.0f), text);
}

Step exact(wanpar::SequenceParallelOptions options) {
  options.min_share = 1;
  auto model = transformer() | wanpar::sequence_parallel(options);
  return [model](int64_t, const at::Tensor& latents) mutable { forward(model, latents); };
}

Step displaced(const wanpar::Communicator& group) {
  auto model = transformer() | wanpar::patch_parallel({.group = group, .warmup_steps = 1});
  return [model](int64_t step, const at::Tensor& latents) mutable {
    model.update_step(step);
    forward(model, latents);
  };
}

double displaced_seconds(double bandwidth = 0) {
  return step_seconds(2, 1, [&](const wanpar::Communicator& world) {
    return displaced(bandwidth > 0 ? slowed(world, bandwidth) : world);
  });
}

/// What a rank sends in a step: its keys and values, its part of the result, and what ranks agree by.
int64_t bytes_of_a_rank() {
  const auto tokens = kLatents[2] * kLatents[3] * kLatents[4] / 4;
  const auto keys_and_values = 2 * tokens * kConfig.dim * kConfig.layers;
  return 4 * (keys_and_values + c10::multiply_integers(kLatents)) / 2;
}

}  // namespace

void print_steps() {
  const at::NoGradGuard no_grad;
  using wanpar::Communicator;
  transformer();
  fmt::print(
      "\n## One step\n\nWan's transformer, width {}, {} layers, {} tokens, float32; median of {}.\n\n"
      "| | s |\n|---|---|\n",
      kConfig.dim, kConfig.layers, kLatents[2] * kLatents[3] * kLatents[4] / 4, kSteps - kWarmUp);
  const auto row = [](const char* what, double taken) { fmt::print("| {} | {:.3f} |\n", what, taken); };
  row("1 rank, 1 thread", step_seconds(1, 1, [](Communicator) { return exact({}); }));
  row("1 rank, 2 threads", step_seconds(1, 2, [](Communicator) { return exact({}); }));
  row("2 ranks of 1 thread, Ulysses",
      step_seconds(2, 1, [](Communicator world) { return exact({.ulysses = world}); }));
  row("2 ranks of 1 thread, ring",
      step_seconds(2, 1, [](Communicator world) { return exact({.ring = world}); }));
  row("2 ranks of 1 thread, displaced patches", displaced_seconds());
}

void print_overlap() {
  const at::NoGradGuard no_grad;
  fmt::print(
      "\n## Overlap\n\nThe same displaced step on 2 ranks, over a link on which its {} bytes a rank take "
      "half as "
      "long as the step. At least 75 % hidden is wanted.\n\n| step, s | its transfer alone, s | with it, s | "
      "hidden |\n"
      "|---|---|---|---|\n",
      bytes_of_a_rank());
  for (int time = 0; time < 3; ++time) {
    const auto computing = displaced_seconds(), transfer = computing / 2;
    const auto both = displaced_seconds(static_cast<double>(bytes_of_a_rank()) / transfer);
    fmt::print("| {:.3f} | {:.3f} | {:.3f} | {:.0f} % |\n", computing, transfer, both,
               100 * (computing + transfer - both) / transfer);
  }
}
