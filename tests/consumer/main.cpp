// A stranger's own module, plain LibTorch, on two ranks that each hold half of its tokens.
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/nn.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/local.hpp>

#include <iostream>

struct AttentionImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) {                                  // [batch, tokens, 64]
    auto heads = qkv(x).unflatten(2, {3, 4, 16}).permute({2, 0, 3, 1, 4});  // 3 of [batch, 4, tokens, 16]
    return x + at::scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2);
  }
  torch::nn::Linear qkv = register_module("qkv", torch::nn::Linear(64, 3 * 64));
};
TORCH_MODULE(Attention);

int main() {
  torch::NoGradGuard no_grad;
  Attention model;
  auto x = torch::randn({1, 37, 64});
  auto expected = model(x);

  wanpar::local::run(2, [&](wanpar::Communicator world) {
    wanpar::Mesh mesh(world, {{"tokens", 2}});
    auto parallel =
        model | wanpar::sequence_parallel({.ulysses = mesh["tokens"], .split = {{.arg = 0, .dim = 1}}});
    if (!torch::allclose(parallel(x), expected)) throw wanpar::Error("two ranks and one disagree");
  });
  std::cout << "consumer: two ranks agree with one\n";
}
