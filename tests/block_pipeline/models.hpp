#pragma once
#include <torch/nn.h>
#include <torch/script.h>
#include <wanpar/module/by_blocks.hpp>

#include <mutex>
#include <string>
#include <vector>

/// Something before the blocks, something after, and blocks that are given two tensors beside x. It states
/// its loop, and knows nothing else of ranks.
struct ResidualBlockImpl : torch::nn::Module {
  explicit ResidualBlockImpl(int64_t dim) {
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim})));
    in = register_module("in", torch::nn::Linear(dim, 2 * dim));
    out = register_module("out", torch::nn::Linear(2 * dim, dim));
  }
  at::Tensor forward(at::Tensor x, const at::Tensor& time, const at::Tensor& bias) {
    auto h = at::gelu(in(norm(x) + time));
    return x + out(h) * (bias.defined() ? bias : at::ones({1}, x.options()));
  }
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear in{nullptr}, out{nullptr};
};
TORCH_MODULE(ResidualBlock);

/// x [batch, 5], time [batch, 1] or one for all, bias [12] or undefined.
struct StackedModelImpl : torch::nn::Module {
  explicit StackedModelImpl(int64_t layers) {
    embed = register_module("embed", torch::nn::Linear(5, 12));
    embed_time = register_module("embed_time", torch::nn::Linear(1, 12));
    for (int64_t i = 0; i < layers; ++i)
      blocks.push_back(register_module("block" + std::to_string(i), ResidualBlock(12)));
    head = register_module("head", torch::nn::Linear(12, 3));
  }
  at::Tensor forward(at::Tensor x, at::Tensor time, at::Tensor bias = {}) {
    return wanpar::run_blocks(blocks, embed(x), embed_time(time), bias,
                              [&](at::Tensor y) { return head(y); });
  }
  torch::nn::Linear embed{nullptr}, embed_time{nullptr}, head{nullptr};
  std::vector<ResidualBlock> blocks;
};
TORCH_MODULE(StackedModel);

/// LibTorch draws numbers for all threads from one generator: one rank at a time makes a model.
inline std::unique_lock<std::mutex> seeded(uint64_t seed) {
  static std::mutex mutex;
  std::unique_lock lock(mutex);
  torch::manual_seed(seed);
  return lock;
}

inline StackedModel stacked_model(int64_t layers = 6, at::ScalarType dtype = at::kFloat) {
  auto lock = seeded(3);
  StackedModel model(layers);
  model->to(dtype);
  return model;
}

/// Layers whose activations differ in shape.
inline torch::nn::Sequential sequential(at::ScalarType dtype = at::kFloat) {
  auto lock = seeded(4);
  torch::nn::Sequential model(torch::nn::Linear(5, 16), torch::nn::ReLU(), torch::nn::Linear(16, 8),
                              torch::nn::Tanh(), torch::nn::Linear(8, 7));
  model->to(dtype);
  return model;
}

inline at::Tensor numbers(std::vector<int64_t> shape, at::ScalarType dtype = at::kFloat, int seed = 0) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed + 11), at::TensorOptions(dtype));
}

/// A TorchScript module as a file would hold it: something before, a list of blocks with a second argument,
/// something after that also takes what came before.
inline torch::jit::Module scripted(int64_t layers, at::ScalarType dtype = at::kFloat) {
  auto lock = seeded(5);
  auto linear = [&](int64_t in, int64_t out) {
    torch::jit::Module module("__torch__.Linear");
    module.register_parameter("weight", (torch::randn({in, out}, dtype) / 4).requires_grad_(), false);
    module.define("def forward(self, x):\n  return torch.matmul(x, self.weight)\n");
    return module;
  };
  torch::jit::Module list("__torch__.ModuleList"), model("__torch__.Model");
  std::string calls;
  for (int64_t i = 0; i < layers; ++i) {
    torch::jit::Module block("__torch__.Block");
    block.register_parameter("weight", (torch::randn({6, 6}, dtype) / 4).requires_grad_(), false);
    block.define(
        "def forward(self, x, shift):\n  return x + torch.tanh(torch.matmul(x, self.weight) + shift)\n");
    list.register_module("layer" + std::to_string(i), block);
    calls += "  x = self.blocks.layer" + std::to_string(i) + ".forward(x, shift)\n";
  }
  model.register_module("embed", linear(5, 6));
  model.register_module("blocks", list);
  model.register_module("head", linear(6, 2));
  model.define("def forward(self, input, shift):\n  x = self.embed.forward(input)\n  skip = torch.relu(x)\n" +
               calls + "  return self.head.forward(x + skip)\n");
  return model;
}

/// The gradients of a module's parameters by name, undefined ones included.
template <class M>
std::vector<at::Tensor> gradients(M& module) {
  std::vector<at::Tensor> all;
  for (auto& [name, tensor] : wanpar::named_parameters(module)) all.push_back(tensor.grad());
  return all;
}

template <class M>
void zero_gradients(M& module) {
  for (auto& [name, tensor] : wanpar::named_parameters(module)) tensor.mutable_grad() = at::Tensor();
}
