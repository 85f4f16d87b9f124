#pragma once
#include <torch/nn.h>

#include <string>
#include <vector>

/// A module as anybody would write it, with a branch that a call may leave out, and a weight used twice.
struct ClassifierImpl : torch::nn::Module {
  explicit ClassifierImpl(int64_t width = 12) {
    first = register_module("first", torch::nn::Linear(width, 2 * width));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({2 * width})));
    extra = register_module("extra", torch::nn::Linear(2 * width, 2 * width));
    last = register_module("last", torch::nn::Linear(2 * width, width));
  }

  /// x [batch, width], label [batch, width] beside it, bias [width] for all samples.
  at::Tensor forward(const at::Tensor& x, at::Tensor label = {}, at::Tensor bias = {}) {
    auto h = norm(at::gelu(first(x)));
    if (uses_extra) h = h + extra(at::tanh(h));
    h = at::tanh(last(h));
    if (label.defined()) h = h * label;
    if (bias.defined()) h = h + bias;
    return last(at::cat({h, h}, -1).sin());
  }

  bool uses_extra = true;
  torch::nn::Linear first = nullptr, extra = nullptr, last = nullptr;
  torch::nn::LayerNorm norm = nullptr;
};
TORCH_MODULE(Classifier);
