#include <doctest/doctest.h>
#include <torch/optim/adamw.h>
#include <wanpar/module/master_weights.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>

#include "samples.hpp"
#include "worlds.hpp"

namespace master_weights_test {

TEST_CASE("float32 masters hold what bfloat16 would lose") {
  auto mine = with_weights(Classifier(), at::kBFloat16);
  mine->norm->to(at::kFloat);
  mine->uses_extra = false;
  for (auto& parameter : mine->extra->parameters()) parameter.requires_grad_(false);
  wanpar::MasterWeights masters(mine);
  require(masters.parameters().size() == 6, "those that are trained");
  for (auto& [name, master] : masters.named_parameters())
    require(master.scalar_type() == at::kFloat && master.is_leaf() && master.requires_grad(), name);

  auto weight = mine->last->weight;
  auto master = masters.parameters()[4];
  require_equal(master.detach().to(at::kBFloat16), weight.detach(), "the same values");
  require(masters.parameters()[2].is_same(mine->norm->weight), "float32 is its own master");

  // A step too small for bfloat16: lost there, kept by the master.
  {
    at::NoGradGuard no_grad;
    master.fill_(1), masters.publish();
    for (int i = 0; i < 8; ++i) master.add_(1e-3), masters.publish();
    require_equal(weight, at::full_like(weight, 1.008), "eight small steps");
  }

  // Gradients add up in float32.
  weight.mutable_grad() = at::full_like(weight, 1.0);
  masters.take_gradients();
  weight.mutable_grad() = at::full_like(weight, 1e-3);
  masters.take_gradients();
  require(!weight.grad().defined(), "taken");
  require_close(master.grad(), at::full_like(master, 1.001), 1e-5, "the sum");
  master.mutable_grad().reset();
}

TEST_CASE("a bfloat16 module trained through its masters, alike on every rank") {
  on_worlds([](wanpar::Communicator world) {
    auto mine = with_weights(torch::nn::Linear(12, 12), at::kBFloat16);
    wanpar::Model model = mine | wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local});
    wanpar::MasterWeights masters(mine);
    torch::optim::AdamW optimizer(masters.parameters(), torch::optim::AdamWOptions(0.01));
    auto x = samples({4, 12}, world.rank(), at::kBFloat16), y = (x * 0.5).detach();
    std::vector<double> losses;
    for (int step = 0; step < 30; ++step) {
      auto loss = at::mse_loss(model(x), y);
      loss.backward();
      masters.take_gradients();
      optimizer.step();
      masters.publish();
      optimizer.zero_grad();
      losses.push_back(loss.item<double>());
    }
    require(losses.back() < 0.5 * losses.front(), "it learns");
    for (auto& [name, master] : masters.named_parameters())
      require_equal(master.detach(), world.broadcast(master.detach()).get(), name);
  });
}

}  // namespace master_weights_test
