#include "wan/pipeline/noise.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <algorithm>

#include "wanpar/core/error.hpp"

namespace wan {

int64_t frames_together(const VaeConfig& config) {
  const auto& doubled = config.temporal_downsample;
  return int64_t{1} << std::count(doubled.begin(), doubled.end(), true);
}

std::array<int64_t, 4> latent_shape(const VaeConfig& config, const VideoSize& size) {
  const int64_t in_space = int64_t{1} << (config.multipliers.size() - 1);
  const int64_t in_time = frames_together(config);
  const int64_t unit = in_space * kPatch;
  if (size.width < unit || size.height < unit || size.width % unit != 0 || size.height % unit != 0)
    throw wanpar::Error(fmt::format(
        "video size: {}x{} is not made of {}x{} pixels; {}x{} would be", size.width, size.height, unit, unit,
        std::max(unit, size.width / unit * unit), std::max(unit, size.height / unit * unit)));
  if (size.frames < 1 || size.frames % in_time != 1 % in_time)
    throw wanpar::Error(
        fmt::format("video size: {} frames are not one more than a multiple of {}; {} would be", size.frames,
                    in_time, std::max<int64_t>(0, size.frames - 1) / in_time * in_time + 1));
  return {config.channels, (size.frames - 1) / in_time + 1, size.height / in_space, size.width / in_space};
}

at::Tensor initial_noise(const VaeConfig& config, const VideoSize& size, uint64_t seed) {
  return at::randn(latent_shape(config, size), at::make_generator<at::CPUGeneratorImpl>(seed), at::kFloat);
}

}  // namespace wan
