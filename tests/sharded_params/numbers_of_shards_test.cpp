// What LibTorch's own functions make of parameters() and their gradients is what they make of whole ones.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <torch/serialize.h>
#include <wanpar/strategy/sharded_params.hpp>

#include <limits>
#include <sstream>

#include "sharded_params/models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace numbers_of_shards_test {
namespace {

torch::nn::Sequential model() {
  auto made = seeded([] { return perceptron(7, 3); });
  made->to(at::kDouble);
  return made;
}

at::Tensor batch(int step) {
  return at::randn({4, 7}, at::make_generator<at::CPUGeneratorImpl>(step + 1), at::kDouble);
}

/// One rank's module and a sharded one, with the gradients of the same samples.
template <class Claim>
void on_trained(const Claim& claim) {
  on_worlds(
      [&](Communicator world) {
        for (auto sharding : {Sharding::full_shard, Sharding::shard_grad_op, Sharding::no_shard}) {
          auto plain = model(), module = model();
          auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
          plain->forward(batch(0)).square().mean().backward();
          sharded.forward(batch(0)).square().mean().backward();
          claim(plain, sharded, world);
        }
      },
      {1, 2, 3, 5});
}

}  // namespace

TEST_CASE("LibTorch clips a sharded model by the norm of all its gradients") {
  on_trained([](auto& plain, auto& sharded, Communicator) {
    for (double p : {2.0, 1.0, 3.0, std::numeric_limits<double>::infinity()}) {
      auto expected = torch::nn::utils::clip_grad_norm_(plain->parameters(), 0.01 / p, p);
      auto actual = torch::nn::utils::clip_grad_norm_(sharded.parameters(), 0.01 / p, p);
      require(std::abs(actual - expected) < 1e-12, fmt::format("norm {}: {} and {}", p, actual, expected));
      auto rest = torch::nn::utils::clip_grad_norm_(sharded.parameters(), 1e9, p);
      require(std::abs(rest - std::min(expected, 0.01 / p)) < 1e-6, fmt::format("clipped to {}", rest));
    }
  });
}

TEST_CASE("LBFGS takes the steps of one rank, over shards") {
  on_worlds(
      [](Communicator world) {
        auto plain = model(), module = model();
        auto sharded = module | wanpar::sharded_params({.group = world});
        const auto options = [] {
          return torch::optim::LBFGSOptions(0.5).max_iter(6).line_search_fn("strong_wolfe");
        };
        torch::optim::LBFGS one(plain->parameters(), options()), many(sharded.parameters(), options());
        for (int step = 0; step < 3; ++step) {
          auto loss = [&](auto& optimizer, auto& trained) {
            return optimizer.step([&] {
              optimizer.zero_grad();
              auto value = trained->forward(batch(step)).square().mean();
              value.backward();
              return value;
            });
          };
          auto* wrapped = &sharded;
          require_close(loss(many, wrapped), loss(one, plain), 1e-9, fmt::format("step {}", step));
        }
      },
      {1, 2, 3, 5});
}

TEST_CASE("one number made of a shard is that of the whole parameter") {
  on_trained([](auto& plain, auto& sharded, Communicator) {
    using Number = std::function<at::Tensor(const at::Tensor&)>;
    const std::vector<std::pair<const char*, Number>> numbers{
        {"norm", [](auto& x) { return x.norm(); }},
        {"norm 1", [](auto& x) { return at::linalg_vector_norm(x, 1); }},
        {"norm 0", [](auto& x) { return at::linalg_vector_norm(x, 0); }},
        {"least", [](auto& x) { return x.abs().min(); }},
        {"greatest", [](auto& x) { return x.amax(); }},
        {"sum", [](auto& x) { return x.square().sum(); }},
        {"mean", [](auto& x) { return x.mean(); }},
        {"dot", [](auto& x) { return x.flatten().dot((2 * x).flatten()); }},
        {"dot of conjugates", [](auto& x) { return x.flatten().vdot((2 * x).flatten()); }},
        {"any", [](auto& x) { return x.gt(0.3).any().to(at::kDouble); }},
        {"all", [](auto& x) { return x.isfinite().all().to(at::kDouble); }},
        {"in float32", [](auto& x) { return x.to(at::kFloat).norm().to(at::kDouble); }},
    };
    auto expected = plain->named_parameters();
    for (auto& [name, shard] : sharded.named_parameters())
      for (auto& [what, number] : numbers)
        for (bool of_gradient : {false, true}) {
          auto& whole = *expected.find(name);
          auto of = [&](const at::Tensor& x) { return number(of_gradient ? x.grad() : x.detach()); };
          require_close(of(shard), of(whole), 1e-6, fmt::format("{} of {}", what, name));
        }
    at::Tensor decay = at::zeros({}, at::kDouble), other = decay.clone();
    for (auto& shard : sharded.parameters()) decay = decay + shard.square().sum();
    for (auto& parameter : plain->parameters()) other = other + parameter.square().sum();
    require_close(decay, other, 1e-9, "a penalty");
    auto mine = torch::autograd::grad({decay}, sharded.parameters());
    for (size_t i = 0; i < mine.size(); ++i)
      require_close(mine[i].norm(), 2 * sharded.parameters()[i].detach().norm(), 1e-9, "and its gradient");
  });
}

TEST_CASE("what a rank would make of its own elements alone is refused") {
  on_worlds(
      [](Communicator world) {
        auto module = model();
        auto sharded = module | wanpar::sharded_params({.group = world});
        at::NoGradGuard no_grad;
        auto shard = sharded.parameters()[0];
        auto refuses = [&](const char* op, auto&& action) {
          require_error([&] { action(); }, fmt::format("aten::{} on a shard: this rank has some", op));
        };
        refuses("argmax", [&] { shard.argmax(); });
        refuses("std", [&] { shard.std(); });
        refuses("cumsum", [&] { shard.cumsum(0); });
        refuses("sort", [&] { shard.sort(); });
        refuses("mul", [&] { shard.outer(shard); });
        refuses("_local_scalar_dense", [&] { shard[0].item(); });
        refuses("sum", [&] { at::diff(shard).abs().sum(); });
        refuses("sum", [&] { shard.narrow(0, 0, 2).sum(); });
        auto given_a_slice = shard.clone();
        given_a_slice.set_data(shard.narrow(0, 0, 2));
        refuses("sum", [&] { given_a_slice.sum(); });
        refuses("_foreach_norm", [&] { at::_foreach_norm({shard}); });
        refuses("_amp_foreach_non_finite_check_and_unscale_", [&] {
          auto found = at::zeros({1}, at::kFloat), scale = at::ones({1}, at::kFloat);
          auto gradient = shard.to(at::kFloat);
          at::_amp_foreach_non_finite_check_and_unscale_(gradient, found, scale);
        });
        require_error(
            [&] {
              at::AutoGradMode with_gradients(true);
              shard.abs().mean();
            },
            "aten::mean of a shard, with a gradient");
        refuses("cat", [&] { at::cat({shard, at::zeros({1}, at::kDouble)}); });
      },
      {2});
}

TEST_CASE("a shard is memory like any other: copied, filled, cast, saved, read by pointer") {
  on_worlds(
      [](Communicator world) {
        auto module = model();
        auto sharded = module | wanpar::sharded_params({.group = world});
        at::NoGradGuard no_grad;
        auto shard = sharded.parameters()[0];
        auto copy = at::empty(shard.sizes(), at::kDouble).copy_(shard);
        std::stringstream file;
        torch::save(shard.detach(), file);
        at::Tensor loaded;
        torch::load(loaded, file);
        require(loaded.sizes() == shard.sizes(), "saved");
        shard.mul_(2).add_(copy, -2);
        require(shard.abs().max().item<double>() == 0, "twice less twice");
        require(std::all_of(shard.data_ptr<double>(), shard.data_ptr<double>() + shard.numel(),
                            [](double x) { return x == 0; }),
                "by pointer");
        shard.copy_(loaded);
        sharded.each_parameter([&](auto& name, auto& value) {
          require(value.equal(*model()->named_parameters().find(name)), name + " is as it was");
        });
      },
      {2, 3});
}

}  // namespace numbers_of_shards_test
