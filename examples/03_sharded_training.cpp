// Sharded training (FSDP, ZeRO-3) with save and resume. Each rank keeps a shard of the parameters, their
// gradients and the optimizer state; a layer is unsharded only while it is used. A checkpoint is saved by
// name, so it can be resumed on any number of ranks: here two ranks train ten steps and save, three load and
// train ten more, and the losses are those of twenty steps on a single rank.
//
//     build/bin/03_sharded_training
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <cmath>
#include <filesystem>
#include <iostream>

using torch::nn::Linear;
struct NetImpl : torch::nn::Module {
  torch::Tensor forward(torch::Tensor x) {
    for (auto& layer : *layers) x = torch::tanh(layer->as<Linear>()->forward(x));
    return x;
  }
  torch::nn::ModuleList layers = register_module(
      "layers", torch::nn::ModuleList(Linear(4, 32), Linear(32, 32), Linear(32, 32), Linear(32, 4)));
};
TORCH_MODULE(Net);

/// Runs steps [begin, end) on some ranks; returns the last loss.
double train(int ranks, int begin, int end, const std::filesystem::path& folder) {
  double last = 0;
  wanpar::local::run(ranks, [&](wanpar::Communicator world) {
    Net net;
    torch::NoGradGuard no_grad;
    for (auto& p : net->parameters()) p.copy_(torch::arange(p.numel()).view_as(p).sin() * 0.3);
    auto model = net | wanpar::sharded_params({.group = world});
    torch::optim::AdamW optimizer(model.parameters(), 1e-2);  // over this rank's shards
    auto state = wanpar::state_dict(model, {&optimizer});
    if (begin > 0) wanpar::load_state_dict(state, folder, world);

    torch::AutoGradMode with_gradients(true);
    for (int step = begin; step < end; ++step) {
      auto x = torch::arange(24).view({6, 4}).add(step).sin();  // the batch of this step: 6 samples,
      auto mine = x.tensor_split(ranks)[world.rank()];          // the same number on each rank
      optimizer.zero_grad();
      auto loss = torch::mse_loss(model(mine), mine.flip(1));
      loss.backward();
      optimizer.step();
      auto mean = world.all_reduce(loss.detach(), wanpar::ReduceOp::mean).get().item<double>();
      if (world.rank() == 0) last = mean;
    }
    if (begin == 0) wanpar::save_state_dict(state, folder, world);
  });
  return last;
}

int main() {
  auto folder = std::filesystem::temp_directory_path() / "wanpar_03_sharded_training";
  auto expected = train(1, 0, 20, folder);
  train(2, 0, 10, folder);
  auto resumed = train(3, 10, 20, folder);
  std::cout << "loss of step 20, on one rank " << expected << ", on two and then three " << resumed << "\n";
  return std::abs(expected - resumed) < 1e-5 ? 0 : 1;
}
