// Strategies composed over a mesh. Four ranks are arranged as 2 × 2: the batch is split along "data", tokens
// along "sequence", and parameters are sharded over all four. Each strategy wraps the result of the previous
// one; the loop is the same for the bare module and the wrapped one, and so are the losses.
//
//                     sequence 0   sequence 1
//            data 0     rank 0       rank 1       half of the samples, half of their tokens,
//            data 1     rank 2       rank 3       a quarter of the parameters each
//
//     build/bin/06_composed
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

struct AttentionImpl : torch::nn::Cloneable<AttentionImpl> {
  AttentionImpl() { reset(); }
  void reset() override { qkv = register_module("qkv", torch::nn::Linear(32, 3 * 32)); }
  torch::Tensor forward(torch::Tensor x) {                                 // [batch, tokens, 32]
    auto heads = qkv(x).unflatten(2, {3, 4, 8}).permute({2, 0, 3, 1, 4});  // 3 of [batch, 4, tokens, 8]
    return x + at::scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2);
  }
  torch::nn::Linear qkv{nullptr};
};
TORCH_MODULE(Attention);

std::vector<double> train(wanpar::Model model, const torch::Tensor& x) {
  std::vector<double> losses;
  torch::optim::Adam optimizer(model.parameters(), 1e-2);
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    auto loss = model(x).square().mean();
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

int main() {
  Attention attention;
  auto another = [&] { return Attention(std::dynamic_pointer_cast<AttentionImpl>(attention->clone())); };
  auto x = torch::randn({4, 10, 32});
  auto expected = torch::tensor(train(another(), x));

  wanpar::local::run(4, [&](wanpar::Communicator world) {
    wanpar::Mesh mesh(world, {{"data", 2}, {"sequence", 2}});
    auto model = another() | wanpar::sharded_params({.group = world}) |
                 wanpar::sequence_parallel({.ulysses = mesh["sequence"], .split = {{.arg = 0, .dim = 1}}}) |
                 wanpar::data_parallel({.group = mesh["data"]});
    auto losses = torch::tensor(train(model, x));
    if (!torch::allclose(losses, expected, 1e-5, 1e-6)) throw wanpar::Error("four ranks and one disagree");
    if (world.rank() == 0) std::cout << "losses on four ranks, as on one:\n" << losses << "\n";
  });
}
