#pragma once
#include <ATen/core/grad_mode.h>
#include <ATen/ops/silu.h>
#include <torch/nn.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "wan/vae/cache.hpp"

namespace wan {

// Videos are [batch, channels, frames, height, width].

constexpr int64_t kColours = 3;
constexpr int64_t kFramesPerLatent = 4;  ///< but for a video's first latent frame, which is one frame

/// The extent of a convolution: time, height and width, or the latter two alone.
using Kernel = std::vector<int64_t>;

/// Parts of a module and the names that checkpoints give them.
using Parts = std::vector<std::pair<std::string, std::shared_ptr<torch::nn::Module>>>;

/// A convolution over as many trailing dimensions as `kernel` has; it pads height and width to keep their
/// size, and time not at all.
class ConvImpl : public torch::nn::Module {
 public:
  ConvImpl(int64_t in, int64_t out, Kernel kernel);
  at::Tensor forward(const at::Tensor& x);
  /// Without padding, every `stride`-th place along each dimension.
  at::Tensor reduce(const at::Tensor& x, at::IntArrayRef stride);

  at::Tensor weight, bias;

 protected:
  at::Tensor convolve(const at::Tensor& x, const at::Tensor& kernel) const;

 private:
  std::vector<int64_t> padding_;
};
TORCH_MODULE(Conv);

/// A convolution whose window in time ends at its own frame. The frames before x come from the cache, and
/// zeros stand in for those before the first.
class CausalConvImpl : public ConvImpl {
 public:
  using ConvImpl::ConvImpl;
  at::Tensor forward(at::Tensor x, FeatureCache& cache);
};
TORCH_MODULE(CausalConv);

/// y = x / max(|x|, 1e-12) * sqrt(channels) * gamma, |x| being the L2 norm over the channels, dimension 1.
class ChannelNormImpl : public torch::nn::Module {
 public:
  /// `trailing` is how many dimensions follow the channels.
  ChannelNormImpl(int64_t channels, int64_t trailing);
  at::Tensor forward(const at::Tensor& x);

  at::Tensor gamma;
};
TORCH_MODULE(ChannelNorm);

/// x * sigmoid(x), written over x where no backward may want what it was.
inline at::Tensor silu_in_place(at::Tensor x) {
  return at::GradMode::is_enabled() ? at::silu(x) : at::silu_(x);
}

/// One step of the VAE: a video in, a video out, and what it must remember in the cache.
class VaeStage : public torch::nn::Module {
 public:
  virtual at::Tensor forward(at::Tensor x, FeatureCache& cache) = 0;
};

/// One value for each channel of a video, of the dtype and device of `like`, [1, channels, 1, 1, 1].
at::Tensor per_channel(const std::vector<double>& values, const at::Tensor& like);

/// Runs stages one after the other.
at::Tensor run(const torch::nn::ModuleList& stages, at::Tensor x, FeatureCache& cache);

/// Two causal convolutions of 3 x 3 x 3, each after norm and SiLU, added to the input.
class ResidualBlock : public VaeStage {
 public:
  ResidualBlock(int64_t in, int64_t out);
  at::Tensor forward(at::Tensor x, FeatureCache& cache) override;

 private:
  ChannelNorm norm1_, norm2_;
  CausalConv conv1_, conv2_;
  Conv shortcut_{nullptr};  // where the number of channels changes
};

/// Attention among the positions of each frame, with one head, added to the input.
class FrameAttention : public VaeStage {
 public:
  explicit FrameAttention(int64_t channels);
  at::Tensor forward(at::Tensor x, FeatureCache& cache) override;

 private:
  ChannelNorm norm_;
  Conv to_qkv_, proj_;
};

/// What a change of size changes.
enum class Resampling { space, space_and_time };

/// Halves height and width; in time, makes one frame of two, but leaves the video's first as it is.
class Downsample : public VaeStage {
 public:
  Downsample(int64_t channels, Resampling resampling);
  at::Tensor forward(at::Tensor x, FeatureCache& cache) override;

 private:
  at::Tensor halve_frames(at::Tensor x, FeatureCache& cache);

  Conv conv_;
  CausalConv time_conv_{nullptr};  // only where time is downsampled
};

/// Doubles height and width and halves the channels; in time, makes two frames of each but the video's first.
class Upsample : public VaeStage {
 public:
  Upsample(int64_t channels, Resampling resampling);
  at::Tensor forward(at::Tensor x, FeatureCache& cache) override;

 private:
  at::Tensor double_frames(at::Tensor x, FeatureCache& cache);

  Conv conv_;
  CausalConv time_conv_{nullptr};  // only where time is upsampled
};

}  // namespace wan
