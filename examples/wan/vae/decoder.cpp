#include "wan/vae/decoder.hpp"

#include <ATen/ops/addcmul.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>

#include <utility>

#include "wanpar/core/error.hpp"

namespace wan {

namespace {

const Kernel kKernel = {3, 3, 3};

}  // namespace

DecoderImpl::DecoderImpl(const VaeConfig& config)
    : conv1(register_module(
          "conv1", CausalConv(config.channels, config.base_dim * config.multipliers.back(), kKernel))),
      middle(register_module("middle", torch::nn::ModuleList())),
      upsamples(register_module("upsamples", torch::nn::ModuleList())),
      head_norm_(config.base_dim * config.multipliers.front(), 3),
      head_conv_(config.base_dim * config.multipliers.front(), kColours, kKernel) {
  int64_t in = config.base_dim * config.multipliers.back();
  middle->push_back(std::make_shared<ResidualBlock>(in, in));
  middle->push_back(std::make_shared<FrameAttention>(in));
  middle->push_back(std::make_shared<ResidualBlock>(in, in));

  for (auto level = static_cast<int64_t>(config.multipliers.size()) - 1; level >= 0; --level) {
    const int64_t out = config.base_dim * config.multipliers[level];
    for (int64_t i = 0; i <= config.residual_blocks; ++i, in = out)
      upsamples->push_back(std::make_shared<ResidualBlock>(in, out));
    if (level == 0) break;
    const bool in_time = config.temporal_downsample[level - 1];
    upsamples->push_back(
        std::make_shared<Upsample>(out, in_time ? Resampling::space_and_time : Resampling::space));
    in = out / 2;
  }
  register_module("head", torch::nn::ModuleDict(Parts{{"0", head_norm_.ptr()}, {"2", head_conv_.ptr()}}));
}

at::Tensor DecoderImpl::forward(at::Tensor latent, FeatureCache& cache) {
  auto x = conv1(std::move(latent), cache);
  x = run(middle, std::move(x), cache);
  x = run(upsamples, std::move(x), cache);
  x = silu_in_place(head_norm_(x));
  return head_conv_(std::move(x), cache);
}

VaeImpl::VaeImpl(VaeConfig config)
    : conv2(register_module("conv2", Conv(config.channels, config.channels, Kernel{1, 1, 1}))),
      decoder(register_module("decoder", Decoder(config))),
      config_(std::move(config)) {}

at::Tensor VaeImpl::decode(at::Tensor latents,
                           const std::function<void(int64_t done, int64_t all)>& progress) {
  if (latents.dim() != 5 || latents.size(1) != config_.channels || latents.size(2) == 0)
    throw wanpar::Error(fmt::format("vae: latents are [{}] and should be [batch, {}, frames, height, width]",
                                    fmt::join(latents.sizes(), ", "), config_.channels));
  latents = at::addcmul(per_channel(config_.mean, latents), latents, per_channel(config_.std, latents));
  latents = conv2(latents.to(conv2->weight.scalar_type()));

  FeatureCache cache;
  std::vector<at::Tensor> frames;
  const int64_t all = latents.size(2);
  for (int64_t i = 0; i < all; ++i) {
    auto decoded = decoder(latents.narrow(2, i, 1), cache);
    if (!decoded.isfinite().all().item<bool>())
      throw wanpar::Error(
          fmt::format("the VAE makes NaN or infinity of latent frame {} of {}, which was finite: its "
                      "weights, or its latents_mean "
                      "and latents_std, are damaged; download the VAE again",
                      i + 1, all));
    frames.push_back(decoded.clamp_(-1, 1));
    if (progress) progress(i + 1, all);
  }
  return at::cat(frames, 2);
}

}  // namespace wan
