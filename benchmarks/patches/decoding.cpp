// The VAE's decoding, by bands and by one rank.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/local.hpp>

#include <cmath>

#include "tables.hpp"
#include "wan/vae/bands.hpp"

namespace {

constexpr int64_t kFrames = 2, kHeight = 32, kWidth = 32;  // of latents: 5 frames of 256 x 256
constexpr int kTimes = 3;

/// Of Wan's size, with weights such that no layer drowns another.
wan::Vae make_vae() {
  wan::Vae vae(wan::VaeConfig{});
  uint64_t seed = 1;
  for (auto& item : vae->named_parameters()) {
    auto& values = item.value();
    const bool is_scale = item.key().ends_with("gamma");
    values.copy_(is_scale ? at::ones(values.sizes())
                          : random(values.sizes(), seed++) /
                                std::sqrt(static_cast<double>(values.numel() / values.size(0))));
  }
  return vae;
}

}  // namespace

void print_decoding() {
  const at::NoGradGuard no_grad;
  const auto vae = make_vae();
  const auto latents = random({1, 16, kFrames, kHeight, kWidth}, 7);
  at::Tensor alone;
  std::vector<double> one, two;
  const auto decode = [&](int ranks) {
    double longest = 0;
    wanpar::local::run(ranks, [&](wanpar::Communicator world) {
      at::set_num_threads(1);
      at::Tensor frames;
      world.barrier();
      const auto taken = seconds([&] { frames = wan::decode_by_bands(world, vae, latents); });
      world.barrier();
      if (world.rank() != 0) return;
      longest = taken;
      if (ranks == 1)
        alone = frames;
      else if ((frames - alone).abs().max().item<double>() > 1e-5)
        throw wanpar::Error("patches: two ranks decode other frames than one");
    });
    return longest;
  };
  for (int time = 0; time < kTimes; ++time) one.push_back(decode(1)), two.push_back(decode(2));
  fmt::print(
      "\n## Decoding\n\nWan's VAE, random weights, {} frames of {}x{}; median of {}, in turn. At least 1.7 "
      "times as "
      "fast on 2 ranks is wanted.\n\n| 1 rank, 1 thread, s | 2 ranks of 1 thread, s | times as fast "
      "|\n|---|---|---|\n"
      "| {:.2f} | {:.2f} | {:.2f} |\n",
      4 * (kFrames - 1) + 1, 8 * kWidth, 8 * kHeight, kTimes, median(one), median(two),
      median(one) / median(two));
}
