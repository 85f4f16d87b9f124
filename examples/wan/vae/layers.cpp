#include "wan/vae/layers.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_upsample_nearest_exact2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace wan {

namespace {

std::vector<int64_t> weight_shape(int64_t in, int64_t out, const Kernel& kernel) {
  std::vector<int64_t> shape = {out, in};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return shape;
}

at::Tensor to_frames(const at::Tensor& video) { return video.transpose(1, 2).flatten(0, 1); }

at::Tensor to_video(const at::Tensor& frames, int64_t batch) {
  return frames.unflatten(0, {batch, -1}).transpose(1, 2);
}

}  // namespace

ConvImpl::ConvImpl(int64_t in, int64_t out, Kernel kernel)
    : weight(register_parameter("weight", at::empty(weight_shape(in, out, kernel)), false)),
      bias(register_parameter("bias", at::empty({out}), false)),
      padding_(kernel.size()) {
  for (size_t d = kernel.size() - 2; d < kernel.size(); ++d) padding_[d] = kernel[d] / 2;
}

at::Tensor ConvImpl::forward(const at::Tensor& x) { return convolve(x, weight); }

at::Tensor ConvImpl::convolve(const at::Tensor& x, const at::Tensor& kernel) const {
  const std::vector<int64_t> ones(padding_.size(), 1), zeros(padding_.size(), 0);
  return at::convolution(x, kernel, bias, ones, padding_, ones, false, zeros, 1);
}

at::Tensor ConvImpl::reduce(const at::Tensor& x, at::IntArrayRef stride) {
  const std::vector<int64_t> ones(padding_.size(), 1), zeros(padding_.size(), 0);
  return at::convolution(x, weight, bias, stride, zeros, ones, false, zeros, 1);
}

at::Tensor CausalConvImpl::forward(at::Tensor x, FeatureCache& cache) {
  const int64_t before = weight.size(2) - 1;
  auto& remembered = cache[this];
  if (!remembered.defined() && x.size(2) == 1) {
    // A video's first frame has zeros before it: its own slice of the window is all that counts.
    remembered = x.clone();
    return convolve(x, weight.narrow(2, before, 1));
  }
  std::vector<at::Tensor> frames;
  if (remembered.defined()) frames.push_back(remembered);
  const int64_t missing = before - (remembered.defined() ? remembered.size(2) : 0);
  if (missing > 0) {
    auto shape = x.sizes().vec();
    shape[2] = missing;
    frames.insert(frames.begin(), at::zeros(shape, x.options()));
  }
  frames.push_back(std::move(x));
  const auto window = at::cat(frames, 2);

  // Zeros are not worth remembering, and a clone lets go of the rest of the window.
  const int64_t keep = std::min(before, window.size(2) - std::max<int64_t>(missing, 0));
  frames.clear();
  remembered = window.narrow(2, window.size(2) - keep, keep).clone();
  return ConvImpl::forward(window);
}

ChannelNormImpl::ChannelNormImpl(int64_t channels, int64_t trailing) {
  std::vector<int64_t> shape(trailing + 1, 1);
  shape[0] = channels;
  gamma = register_parameter("gamma", at::empty(shape), false);
}

at::Tensor ChannelNormImpl::forward(const at::Tensor& x) {
  const auto exact = at::promote_types(x.scalar_type(), at::kFloat);
  const auto length = at::linalg_vector_norm(x, 2, {1}, true, exact).clamp_min(1e-12);
  const auto scaled = x / (length / std::sqrt(static_cast<double>(x.size(1))));
  return (at::GradMode::is_enabled() ? scaled * gamma : scaled.mul_(gamma)).to(x.scalar_type());
}

at::Tensor per_channel(const std::vector<double>& values, const at::Tensor& like) {
  return at::tensor(values, like.options()).view({1, -1, 1, 1, 1});
}

at::Tensor run(const torch::nn::ModuleList& stages, at::Tensor x, FeatureCache& cache) {
  for (const auto& stage : *stages) x = stage->as<VaeStage>()->forward(std::move(x), cache);
  return x;
}

ResidualBlock::ResidualBlock(int64_t in, int64_t out)
    : norm1_(in, 3), norm2_(out, 3), conv1_(in, out, Kernel{3, 3, 3}), conv2_(out, out, Kernel{3, 3, 3}) {
  // The numbers are places in the official list, which also counts activations and dropout.
  register_module("residual",
                  torch::nn::ModuleDict(Parts{
                      {"0", norm1_.ptr()}, {"2", conv1_.ptr()}, {"3", norm2_.ptr()}, {"6", conv2_.ptr()}}));
  if (in != out) shortcut_ = register_module("shortcut", Conv(in, out, Kernel{1, 1, 1}));
}

at::Tensor ResidualBlock::forward(at::Tensor x, FeatureCache& cache) {
  auto h = conv1_(silu_in_place(norm1_(x)), cache);
  h = silu_in_place(norm2_(h));
  h = conv2_(std::move(h), cache);
  return h.add_(shortcut_ ? shortcut_(x) : x);
}

FrameAttention::FrameAttention(int64_t channels)
    : norm_(register_module("norm", ChannelNorm(channels, 2))),
      to_qkv_(register_module("to_qkv", Conv(channels, 3 * channels, Kernel{1, 1}))),
      proj_(register_module("proj", Conv(channels, channels, Kernel{1, 1}))) {}

at::Tensor FrameAttention::forward(at::Tensor x, FeatureCache&) {
  const auto frames = to_frames(x);
  const auto qkv = to_qkv_(norm_(frames)).flatten(2).transpose(1, 2).unsqueeze(1).contiguous();
  const auto thirds = qkv.chunk(3, -1);  // each [frames, 1, positions, channels]
  const auto out = at::scaled_dot_product_attention(thirds[0], thirds[1], thirds[2]);
  return x + to_video(proj_(out.squeeze(1).transpose(1, 2).reshape(frames.sizes())), x.size(0));
}

Downsample::Downsample(int64_t channels, Resampling resampling) : conv_(channels, channels, Kernel{3, 3}) {
  register_module("resample", torch::nn::ModuleDict(Parts{{"1", conv_.ptr()}}));
  if (resampling == Resampling::space_and_time)
    time_conv_ = register_module("time_conv", CausalConv(channels, channels, Kernel{3, 1, 1}));
}

at::Tensor Downsample::forward(at::Tensor x, FeatureCache& cache) {
  const int64_t batch = x.size(0);
  x = to_video(conv_->reduce(at::constant_pad_nd(to_frames(x), {0, 1, 0, 1}), {2, 2}), batch);
  return time_conv_ ? halve_frames(std::move(x), cache) : x;
}

at::Tensor Downsample::halve_frames(at::Tensor x, FeatureCache& cache) {
  // A window of three frames begins with the last one of the part before.
  auto& before = cache[time_conv_.get()];
  const auto window = before.defined() ? at::cat({before, x}, 2) : at::Tensor();
  before = x.narrow(2, x.size(2) - 1, 1).clone();
  return window.defined() ? time_conv_->reduce(window, {2, 1, 1}) : x;
}

Upsample::Upsample(int64_t channels, Resampling resampling) : conv_(channels, channels / 2, Kernel{3, 3}) {
  register_module("resample", torch::nn::ModuleDict(Parts{{"1", conv_.ptr()}}));
  if (resampling == Resampling::space_and_time)
    time_conv_ = register_module("time_conv", CausalConv(channels, 2 * channels, Kernel{3, 1, 1}));
}

at::Tensor Upsample::forward(at::Tensor x, FeatureCache& cache) {
  const int64_t batch = x.size(0);
  if (time_conv_) x = double_frames(std::move(x), cache);
  x = at::_upsample_nearest_exact2d(to_frames(x), {}, at::ArrayRef<double>{2, 2});
  return to_video(conv_(x), batch);
}

at::Tensor Upsample::double_frames(at::Tensor x, FeatureCache& cache) {
  // The video's first latent frame stays one frame, and the frames after it do not see it here.
  if (!cache.contains(time_conv_.get())) {
    cache[time_conv_.get()] = x.narrow(2, 0, 0);
    return x;
  }
  const auto halves = time_conv_(std::move(x), cache).chunk(2, 1);
  return at::stack({halves[0], halves[1]}, 3).flatten(2, 3);
}

}  // namespace wan
