#include <ATen/ATen.h>

#include "wan/demo/random.hpp"
#include "wan/demo/rules.hpp"
#include "wan/demo/weights.hpp"
#include "wan/vae/decoder.hpp"

namespace wan::demo {
namespace {

/// A random mixture of the channels, blurred over the other dimensions: time, height and width, or two. What
/// all channels have in common is left out: it would tint the whole picture.
Draw blurred(double gain) {
  return [=](const std::string& name, at::IntArrayRef shape) {
    auto mixture = normal_weight(name, {shape[0], shape[1]}, gain);
    mixture = (mixture - mixture.mean(1, true)).view({shape[0], shape[1], 1, 1, 1});
    const auto in_space = at::tensor({0.25, 0.5, 0.25}, at::kFloat);
    const auto in_time = at::tensor({0.1, 0.2, 0.7}, at::kFloat).view({3, 1, 1});
    const auto weight = mixture * in_space.view({3, 1}) * in_space;
    return shape.size() == 4 ? weight.squeeze(2) : weight * in_time;
  };
}

/// Two frames of one: half way from the frame before, and the frame itself.
at::Tensor frames_between(const std::string&, at::IntArrayRef shape) {
  const auto same = at::eye(shape[1]).view({shape[1], shape[1], 1, 1, 1});
  const auto taps = [](double before, double now) {
    return at::tensor({0.0, before, now}, at::kFloat).view({3, 1, 1});
  };
  return at::cat({same * taps(0.5, 0.5), same * taps(0, 1)});
}

}  // namespace

std::map<std::string, at::Tensor> vae_weights(const VaeConfig& config) {
  return draw_all(*Vae(config), {
                                    {"gamma", constant(1)},
                                    {"residual.2.bias", small(0.3)},
                                    {"decoder.head.2.bias", constant(0.1)},
                                    {".bias", constant(0)},
                                    {"decoder.head.2.weight", blurred(1.5)},
                                    {"residual.2.weight", blurred(1.5)},
                                    {"residual.6.weight", blurred(1.4)},
                                    {"decoder.conv1.weight", blurred(1)},
                                    {"resample.1.weight", blurred(1)},
                                    {"time_conv.weight", frames_between},
                                    {"shortcut.weight", spread(1)},
                                    {"to_qkv.weight", spread(1)},
                                    {"proj.weight", spread(0.5)},
                                    {"conv2.weight", identity(1)},
                                });
}

}  // namespace wan::demo
