#include "wan/vae/encoder.hpp"

#include <ATen/ops/cat.h>
#include <fmt/ranges.h>

#include <utility>
#include <vector>

#include "wanpar/core/error.hpp"

namespace wan {

EncoderImpl::EncoderImpl(const VaeConfig& config)
    : conv1(register_module("conv1", CausalConv(kColours, config.base_dim, Kernel{3, 3, 3}))),
      downsamples(register_module("downsamples", torch::nn::ModuleList())),
      middle(register_module("middle", torch::nn::ModuleList())),
      head_norm_(config.base_dim * config.multipliers.back(), 3),
      head_conv_(config.base_dim * config.multipliers.back(), 2 * config.channels, Kernel{3, 3, 3}) {
  int64_t in = config.base_dim;
  for (size_t level = 0; level < config.multipliers.size(); ++level) {
    const int64_t out = config.base_dim * config.multipliers[level];
    for (int64_t i = 0; i < config.residual_blocks; ++i, in = out)
      downsamples->push_back(std::make_shared<ResidualBlock>(in, out));
    if (level + 1 == config.multipliers.size()) break;
    const bool in_time = config.temporal_downsample[level];
    downsamples->push_back(
        std::make_shared<Downsample>(out, in_time ? Resampling::space_and_time : Resampling::space));
  }
  middle->push_back(std::make_shared<ResidualBlock>(in, in));
  middle->push_back(std::make_shared<FrameAttention>(in));
  middle->push_back(std::make_shared<ResidualBlock>(in, in));
  register_module("head", torch::nn::ModuleDict(Parts{{"0", head_norm_.ptr()}, {"2", head_conv_.ptr()}}));
}

at::Tensor EncoderImpl::forward(at::Tensor frames, FeatureCache& cache) {
  auto x = conv1(std::move(frames), cache);
  x = run(downsamples, std::move(x), cache);
  x = run(middle, std::move(x), cache);
  x = silu_in_place(head_norm_(x));
  return head_conv_(std::move(x), cache);
}

VaeEncoderImpl::VaeEncoderImpl(VaeConfig config)
    : encoder(register_module("encoder", Encoder(config))),
      conv1(register_module("conv1", Conv(2 * config.channels, 2 * config.channels, Kernel{1, 1, 1}))),
      config_(std::move(config)) {}

at::Tensor VaeEncoderImpl::encode(at::Tensor frames) {
  const auto fits = [&](int64_t dimension) {
    return frames.size(dimension) > 0 && frames.size(dimension) % 8 == 0;
  };
  if (frames.dim() != 5 || frames.size(1) != kColours || frames.size(2) == 0 || !fits(3) || !fits(4))
    throw wanpar::Error(
        fmt::format("vae: frames are [{}] and should be [batch, {}, frames, height, width], height and width "
                    "multiples of 8",
                    fmt::join(frames.sizes(), ", "), kColours));
  frames = frames.to(conv1->weight.scalar_type());

  FeatureCache cache;
  std::vector<at::Tensor> moments = {encoder(frames.narrow(2, 0, 1), cache)};
  for (int64_t first = 1; first + kFramesPerLatent <= frames.size(2); first += kFramesPerLatent)
    moments.push_back(encoder(frames.narrow(2, first, kFramesPerLatent), cache));
  const auto mean = conv1(at::cat(moments, 2)).narrow(1, 0, config_.channels);
  return (mean - per_channel(config_.mean, mean)) / per_channel(config_.std, mean);
}

}  // namespace wan
