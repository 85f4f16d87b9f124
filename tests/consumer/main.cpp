// A stranger's own module, plain LibTorch; wanpar comes in only where it is run on two ranks.
#include <torch/nn.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/transport/local.hpp>

#include <iostream>

struct PerceptronImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) { return out(torch::gelu(in(x))); }
  torch::nn::Linear in = register_module("in", torch::nn::Linear(8, 32));
  torch::nn::Linear out = register_module("out", torch::nn::Linear(32, 8));
};
TORCH_MODULE(Perceptron);

int main() {
  torch::NoGradGuard no_grad;
  Perceptron model;
  auto x = torch::randn({6, 8});
  auto expected = model(x);

  wanpar::local::run(2, [&](wanpar::Communicator world) {
    wanpar::Mesh mesh(world, {{"batch", 2}});
    auto mine = x.chunk(2)[mesh.index("batch")];
    auto all = mesh["batch"].all_gather(model(mine)).get();
    if (!torch::allclose(all, expected)) throw wanpar::Error("two ranks and one disagree");
  });
  std::cout << "consumer: two ranks agree with one\n";
}
