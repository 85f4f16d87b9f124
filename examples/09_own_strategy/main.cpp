// A strategy of one's own: linear layers whose outputs are split over ranks (Megatron's column parallel
// layer), in any module, with gradients. It meets the operators that the module calls and takes the place of
// their product: each rank computes some columns of the result, and all are gathered. Two maps and their
// adjoints make the gradients those of one rank: what is the same on all ranks has the sum of their
// gradients, what is gathered hands each its own columns'.
//
//     rank 0   x ─▶ weight[0:h] ─┐
//     rank 1   x ─▶ weight[h: ] ─┴▶ gather ─▶ y
//
//     build/bin/09_own_strategy
#include "column_parallel.hpp"

#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

int main() {
  torch::nn::Sequential net(torch::nn::Linear(6, 9), torch::nn::Tanh(), torch::nn::Linear(9, 4));
  auto x = torch::randn({5, 6}).requires_grad_();
  auto expected = net->forward(x);
  expected.square().sum().backward();
  auto parameters = net->parameters();

  wanpar::local::run(2, [&](wanpar::Communicator world) {
    auto mine = std::dynamic_pointer_cast<torch::nn::SequentialImpl>(net->clone());
    mine->zero_grad();
    wanpar::Wrapped<torch::nn::Sequential, ColumnParallel> model(mine, world);
    auto input = x.detach().requires_grad_();
    auto y = model(input);
    y.square().sum().backward();  // the same loss on every rank

    bool equal =
        torch::allclose(y, expected, 1e-5, 1e-6) && torch::allclose(input.grad(), x.grad(), 1e-5, 1e-6);
    for (size_t i = 0; i < parameters.size(); ++i)
      equal = equal && torch::allclose(mine->parameters()[i].grad(), parameters[i].grad(), 1e-5, 1e-6);
    if (!equal) throw wanpar::Error("two ranks and one disagree");
    if (world.rank() == 0) std::cout << "two ranks and one agree, in results and in all gradients\n";
  });
}
