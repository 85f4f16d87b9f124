// Sequence parallel attention. Four ranks each hold a quarter of the tokens of one sequence; the module is
// plain LibTorch and knows nothing of ranks. Ulysses exchanges tokens for heads around attention (an
// all-to-all), the ring rotates keys and values; here both are combined, 2 × 2. Result and gradients are
// those of a single rank, even if nothing divides evenly: 37 tokens, 3 heads.
//
//     build/bin/04_sequence_parallel
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

struct AttentionImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) {                                  // [batch, tokens, 48]
    auto heads = qkv(x).unflatten(2, {3, 3, 16}).permute({2, 0, 3, 1, 4});  // 3 of [batch, 3, tokens, 16]
    return x + at::scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2);
  }
  torch::nn::Linear qkv = register_module("qkv", torch::nn::Linear(48, 3 * 48));
};
TORCH_MODULE(Attention);

int main() {
  Attention attention;
  auto x = torch::randn({2, 37, 48});
  auto expected = attention(x);
  auto gradient_of = [&](const torch::Tensor& y) {
    return torch::autograd::grad({y.square().mean()}, {attention->qkv->weight})[0];
  };
  auto expected_gradient = gradient_of(expected);

  wanpar::local::run(4, [&](wanpar::Communicator world) {
    wanpar::Mesh mesh(world, {{"ring", 2}, {"ulysses", 2}});
    auto model = attention | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                        .ring = mesh["ring"],
                                                        .split = {{.arg = 0, .dim = 1}}});  // the tokens
    auto y = model(x);  // all ranks pass the same x and get the full result
    auto gradient = gradient_of(y);

    auto far =
        torch::maximum((y - expected).abs().max(), (gradient - expected_gradient).abs().max()).item<float>();
    if (world.rank() == 0) std::cout << "four ranks and one differ by " << far << ", gradients included\n";
    if (!(far < 1e-5)) throw wanpar::Error("four ranks and one disagree");
  });
}
