// Data parallel training. Each rank holds the full model and computes the gradients of its own shard of the
// batch; backward() averages them over the ranks, so all optimizers take the same step. The loop is the same
// as on a single device; one line wraps the model. Run alone, the program uses two threads, under a launcher
// the launcher's processes:
//
//     build/bin/02_data_parallel
//     mpirun -np 2 build/bin/02_data_parallel
//     torchrun --no-python --nproc-per-node 2 build/bin/02_data_parallel
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

struct NetImpl : torch::nn::Module {  // plain LibTorch: no base class, no registration
  torch::Tensor forward(torch::Tensor x) { return out->forward(torch::relu(in->forward(x))); }
  torch::nn::Linear in = register_module("in", torch::nn::Linear(2, 32));
  torch::nn::Linear out = register_module("out", torch::nn::Linear(32, 1));
};
TORCH_MODULE(Net);

void train(wanpar::Communicator world) {
  auto model = Net() | wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local});
  torch::optim::Adam optimizer(model.parameters(), 1e-2);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(world.rank());  // each rank has its own data
  torch::Tensor loss;
  for (int step = 0; step < 200; ++step) {
    auto x = torch::rand({16, 2}, generator);
    auto y = x.prod(1, /*keepdim=*/true);  // the target
    optimizer.zero_grad();
    loss = torch::mse_loss(model(x), y);
    loss.backward();  // averages the gradients
    optimizer.step();
  }

  auto mean = world.all_reduce(loss.detach(), wanpar::ReduceOp::mean).get().item<float>();
  if (!(mean < 1e-2)) throw wanpar::Error("the loss did not fall");
  for (auto& [name, parameter] : model.named_parameters())
    if (!torch::equal(parameter, world.broadcast(parameter.detach()).get()))
      throw wanpar::Error(name + " differs between ranks");
  if (world.rank() == 0)
    std::cout << world.size() << " ranks with the same parameters, loss " << mean << "\n";
}

int main() {
  auto world = wanpar::connect();  // the processes of torchrun or mpirun; without a launcher only this one
  if (world.size() > 1)
    train(world);
  else
    wanpar::local::run(2, train);
}
