#pragma once
#include <torch/nn.h>
#include <wanpar/module/model.hpp>

#include <memory>
#include <mutex>
#include <utility>

#include "models/attention_model.hpp"

using namespace wanpar::conformance::models;

/// LibTorch's random numbers come from one generator for all threads.
inline std::mutex generator_mutex;

/// The same module on every rank.
template <class Make>
auto seeded(const Make& make) {
  std::lock_guard lock(generator_mutex);
  torch::manual_seed(5);
  return make();
}

/// Words through everything that treats its parameters in a way of its own: an embedding tied to the last
/// product, a recurrent layer, convolutions and norms, weights sliced, transposed, expanded.
struct ZooImpl : torch::nn::Module {
  static constexpr int64_t kWords = 50, kWidth = 24;

  ZooImpl() {
    words = register_module("words", torch::nn::Embedding(kWords, kWidth));
    recurrent =
        register_module("recurrent", torch::nn::GRU(torch::nn::GRUOptions(kWidth, kWidth).batch_first(true)));
    conv = register_module("conv", torch::nn::Conv1d(torch::nn::Conv1dOptions(kWidth, kWidth, 3).padding(1)));
    norm = register_module("norm", torch::nn::GroupNorm(torch::nn::GroupNormOptions(4, kWidth)));
    twice = register_parameter("twice", torch::randn({2 * kWidth, kWidth + 1}) / 5);
    mixer = register_parameter("mixer", torch::randn({kWidth, kWidth}).t() / 5);  // not laid out row by row
    scale = register_parameter("scale", torch::rand({1}));
    last = register_module("last", torch::nn::Linear(torch::nn::LinearOptions(kWidth, kWords).bias(true)));
    tied = register_parameter("tied", words->weight);
    unused = register_parameter("unused", torch::randn({7}));
    shift = register_buffer("shift", torch::randn({1, 1, kWidth}));
  }

  at::Tensor forward(at::Tensor tokens) {
    auto x = words(tokens.to(at::kLong));
    x = std::get<0>(recurrent(x)) + shift;
    x = norm(conv(x.transpose(1, 2))).transpose(1, 2);
    auto [upper, lower] = std::pair(twice.slice(0, 0, kWidth), twice.slice(0, kWidth));
    x = at::linear(x, upper.slice(1, 1)) * scale.expand({kWidth}) +
        at::matmul(x, lower.slice(1, 0, kWidth).t());
    x = at::gelu(at::matmul(x, mixer));
    return at::matmul(x, tied.t()) + last->bias;
  }

  torch::nn::Embedding words{nullptr};
  torch::nn::GRU recurrent{nullptr};
  torch::nn::Conv1d conv{nullptr};
  torch::nn::GroupNorm norm{nullptr};
  torch::nn::Linear last{nullptr};
  at::Tensor twice, mixer, scale, unused, tied, shift;
};
TORCH_MODULE(Zoo);

/// A perceptron in the plainest of ways.
inline torch::nn::Sequential perceptron(int64_t width = 32, int64_t layers = 5) {
  torch::nn::Sequential layers_in_order;
  for (int64_t i = 0; i < layers; ++i) {
    layers_in_order->push_back(torch::nn::Linear(width, width));
    layers_in_order->push_back(torch::nn::GELU());
  }
  return layers_in_order;
}
