#include "train/autoencoder.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "train/weights.hpp"

namespace wan::train {
namespace {

constexpr double kNoise = 0.03;  // that the posterior's standard deviation says

/// The taps of a convolution over time that mixes no channels.
void fill_with_taps(at::Tensor weight, const std::vector<double>& taps) {
  const auto same = at::eye(weight.size(1), weight.options()).view({weight.size(1), weight.size(1), 1, 1, 1});
  const auto kernel = same * at::tensor(taps, weight.options()).view({-1, 1, 1});
  weight.add_(kernel.repeat({weight.size(0) / weight.size(1), 1, 1, 1, 1}));
}

void fill(const std::string& name, at::Tensor parameter, at::Generator generator) {
  if (has(name, "gamma")) {
    parameter.fill_(1);
  } else if (has(name, "bias") || has(name, "residual.6.weight") || has(name, "proj.weight")) {
    parameter.zero_();
  } else {
    fill_layer(parameter, generator);
  }
  if (has(name, "time_conv.weight")) {
    parameter.mul_(0.2);
    fill_with_taps(parameter,
                   has(name, "upsamples") ? std::vector<double>{0, 0, 1} : std::vector<double>{0, 0.5, 0.5});
  }
}

}  // namespace

AutoencoderImpl::AutoencoderImpl(const VaeConfig& config) : encoding_(config), decoding_(config) {
  register_module("encoder", encoding_->encoder);
  register_module("conv1", encoding_->conv1);
  register_module("conv2", decoding_->conv2);
  register_module("decoder", decoding_->decoder);
}

std::vector<at::Tensor> AutoencoderImpl::forward(at::Tensor frames, at::Tensor noise) {
  const auto dtype = encoding_->conv1->weight.scalar_type();
  // Behind a video's first frame all others may come at once: that is what the parts are, joined.
  const auto in_two = [](auto& network, const at::Tensor& x) {
    FeatureCache cache;
    const auto first = network(x.narrow(2, 0, 1), cache);
    return x.size(2) == 1 ? first : at::cat({first, network(x.narrow(2, 1, x.size(2) - 1), cache)}, 2);
  };
  // Convolutions and norms over few channels are quicker where these lie side by side.
  frames = frames.to(dtype).contiguous(at::MemoryFormat::ChannelsLast3d);
  const auto moments = encoding_->conv1(in_two(encoding_->encoder, frames));
  const auto mean = moments.narrow(1, 0, moments.size(1) / 2);
  return {in_two(decoding_->decoder, decoding_->conv2(mean + noise.to(dtype))), mean};
}

void AutoencoderImpl::initialize(uint64_t seed) {
  fill_each(*this, seed, fill);
  // The logarithm of the variance is not trained, but says what noise the decoder has learnt to bear.
  at::NoGradGuard no_grad;
  const auto channels = encoding_->conv1->weight.size(0) / 2;
  encoding_->conv1->weight.narrow(0, channels, channels).zero_();
  encoding_->conv1->bias.narrow(0, channels, channels).fill_(2 * std::log(kNoise));
}

}  // namespace wan::train
