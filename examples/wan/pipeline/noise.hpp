#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

#include "wan/config.hpp"

namespace wan {

/// Size of a video in pixels and frames.
struct VideoSize {
  int64_t width = 832;
  int64_t height = 480;
  int64_t frames = 81;
};

/// Frames of video that one latent frame becomes; the first becomes one.
int64_t frames_together(const VaeConfig& config);

/// Shape of the latents of a video: channels, frames, height, width. Throws Error when the VAE and the
/// transformer's patches of 2 x 2 cannot make that size; the sentence names the nearest smaller one that they
/// can.
std::array<int64_t, 4> latent_shape(const VaeConfig& config, const VideoSize& size);

/// The noise that a video starts from, [channels, T, H, W], float32 on the CPU. It is drawn once for the full
/// shape, so a seed means the same video on any number of ranks and devices.
at::Tensor initial_noise(const VaeConfig& config, const VideoSize& size, uint64_t seed);

}  // namespace wan
