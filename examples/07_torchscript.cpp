// A TorchScript model. A module from torch::jit::load is wrapped like any other module, by any strategy;
// nothing about it needs to be known at compile time, and nothing changes in Python. Here the tokens of a
// script, with attention written as matrix products, are split over two ranks.
//
//     build/bin/07_torchscript
#include <torch/script.h>
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

torch::jit::Module scripted() {  // stands for torch::jit::load("model.pt")
  torch::jit::Module module("attention");
  for (auto name : {"query", "key", "value"}) module.register_parameter(name, torch::randn({16, 16}), false);
  module.define(R"(
    def forward(self, x):
      q = torch.matmul(x, self.query)
      k = torch.matmul(x, self.key)
      v = torch.matmul(x, self.value)
      weights = torch.softmax(torch.matmul(q, k.transpose(1, 2)) * 0.25, -1)
      return x + torch.matmul(weights, v)
  )");
  return module;
}

int main() {
  torch::NoGradGuard no_grad;
  auto module = scripted();
  auto x = torch::randn({2, 11, 16});  // [batch, tokens, channels]
  auto expected = module.forward({x}).toTensor();

  wanpar::local::run(2, [&](wanpar::Communicator world) {
    auto model = module | wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 1}}});
    auto y = model(x);
    if (!torch::allclose(y, expected, 1e-5, 1e-5)) throw wanpar::Error("two ranks and one disagree");
    if (world.rank() == 0)
      std::cout << "two ranks and one differ by " << (y - expected).abs().max().item<float>() << "\n";
  });
}
