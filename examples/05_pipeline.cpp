// Pipeline parallel training. Each rank holds a range of a model's blocks and sends activations on;
// micro-batches keep all of them busy. train_step runs forward and backward of one batch, alternating one
// forward and one backward (1F1B), and leaves on each rank the gradients of its own blocks, which are those
// of a single rank.
//
//     build/bin/05_pipeline
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

using torch::nn::Linear;
using torch::nn::Sequential;
using torch::nn::Tanh;

int main() {
  Sequential reference(Linear(8, 8), Tanh(), Linear(8, 8), Tanh(), Linear(8, 8), Tanh());
  auto x = torch::randn({10, 8}), target = torch::randn({10, 8});
  auto loss_of = [](torch::Tensor y, torch::Tensor target) { return torch::mse_loss(y, target); };
  auto expected = loss_of(reference->forward(x), target);
  expected.backward();

  wanpar::local::run(3, [&](wanpar::Communicator world) {
    Sequential mine(std::dynamic_pointer_cast<torch::nn::SequentialImpl>(reference->clone()));
    auto model = mine | wanpar::block_pipeline({.stages = world, .micro_batches = 4});
    torch::optim::SGD optimizer(model.parameters(), 0.1);

    optimizer.zero_grad();
    auto loss = model.train_step({x}, target, loss_of);  // of the global batch, on every rank
    auto blocks = model.ranges()[world.rank()];
    for (auto i = blocks.begin; i < blocks.end; ++i)
      for (auto& item : (*(mine->begin() + i)).ptr()->named_parameters()) {
        auto gradient = reference->named_parameters()[std::to_string(i) + "." + item.key()].grad();
        if (!torch::allclose(item.value().grad(), gradient, 1e-5, 1e-6))
          throw wanpar::Error("another gradient than on one rank: block " + std::to_string(i));
      }
    if (!torch::allclose(loss.to(torch::kFloat), expected))
      throw wanpar::Error("another loss than on one rank");
    optimizer.step();  // its own blocks: the others have no gradient here

    auto after = model.train_step({x}, target, loss_of);
    if (world.rank() == 0)
      std::cout << "three stages: loss " << loss.item<float>() << ", as on one rank; after a step "
                << after.item<float>() << "\n";
    if (!(after.item<float>() < loss.item<float>())) throw wanpar::Error("the loss did not fall");
  });
}
