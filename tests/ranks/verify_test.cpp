#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/verify.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "models/attention_model.hpp"
#include "worlds.hpp"

using namespace wanpar::conformance::models;

using wanpar::Communicator;
using wanpar::Model;

namespace verify_test {
namespace {

/// Makes the input of every GELU a little larger, as a strategy might that carries it wrongly.
struct Bends : wanpar::OperatorHandler {
  wanpar::Tensors around(const wanpar::Operator& op, const Next& next) override {
    if (op.name != "aten::gelu") return next(op);
    auto bent = op;
    bent.inputs[0] = op.inputs[0] * 1.01;
    return next(bent);
  }
};

at::Tensor random(std::vector<int64_t> shape, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

void require_exact(const wanpar::Verification& found, const std::string& claim) {
  auto first = found.first.value_or(wanpar::OperatorDifference{"no operator", 0, 0});
  require(!found.first,
          fmt::format("{}: {} at {} differs by {}", claim, first.name, first.index, first.difference));
  require(found.difference < 1e-5, fmt::format("{}: the results differ by {}", claim, found.difference));
}

}  // namespace

TEST_CASE("the first operator that a wrapper carries wrongly is named") {
  torch::manual_seed(1);
  AttentionModel model;
  auto bent = [&](const at::Tensor& x) {
    Bends bends;
    wanpar::Scope scope(bends);
    return model(x);
  };
  auto x = at::randn({1, 9, 48});
  auto found = wanpar::verify(bent, [&](const at::Tensor& t) { return model(t); }, {x});
  CHECK(found.difference > 1e-4);
  REQUIRE(found.first);
  CHECK(found.first->name == "aten::gelu");
  CHECK(found.first->index > 5);
  CHECK(found.first->difference > 1e-4);
}

TEST_CASE("split operators are compared with those of one rank") {
  torch::manual_seed(1);
  AttentionModel model;
  on_worlds([&](Communicator world) {
    auto split =
        model | wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
    auto found = wanpar::verify(split, {random({2, 11, 48}, 3)});
    require_exact(found, "sequence_parallel");
    require(found.operators > 20, "operators were compared");
  });
}

TEST_CASE("conditions, complex numbers and their gradients are compared as numbers are") {
  on_worlds([&](Communicator world) {
    auto over = [&](auto f) {
      return Model(f) | wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0}}, .min_share = 1});
    };
    auto x = random({2, 11, 4}, 3).requires_grad_();
    auto masked = over([](at::Tensor t) { return at::where(t > 0, t, 0.1 * t); });
    require_exact(wanpar::verify(masked, {x}), "a condition");
    auto turned = over([](at::Tensor t) { return at::polar(t.exp(), t); });
    auto found = wanpar::verify(turned, {x});
    require_exact(found, "complex numbers");
    require(found.gradient < 1e-5, fmt::format("the gradients differ by {}", found.gradient));
  });
}

TEST_CASE("a module that answers otherwise each time is not compared") {
  on_worlds([&](Communicator world) {
    auto calls = std::make_shared<int>(0);
    auto counts = Model([=](at::Tensor t) { return t + ++*calls; }) |
                  wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0}}, .min_share = 1});
    require_error([&] { wanpar::verify(counts, {random({1, 9, 4}, 3)}); }, "keep nothing between calls");
  });
}

TEST_CASE("a strategy that cuts the batch is compared by its result") {
  on_worlds([](Communicator world) {
    auto x = random({13, 6}, 7);
    // The module's own narrow is not taken for the strategy's.
    Model each([](const at::Tensor& t) { return at::gelu(t.narrow(1, 0, 3)); });
    Model over_samples(
        [](const at::Tensor& t) { return t.narrow(1, 0, 3) - t.mean(0, true).narrow(1, 0, 3); });
    require_exact(wanpar::verify(Model(each | wanpar::data_parallel({.group = world})), each, {x}),
                  "data_parallel");
    // Which is not so, and refused where it is not stated.
    Model stated(over_samples | wanpar::data_parallel({.group = world, .gather = {{.dim = 0}}}));
    auto found = wanpar::verify(stated, over_samples, {x});
    require((found.difference > 1e-2) == (world.size() > 1),
            fmt::format("a mean over the batch differs by {}", found.difference));
    require(!found.first, "no operator is blamed");
  });
}

TEST_CASE("a pipeline's stage is not compared with blocks that are not its own") {
  on_worlds(
      [](Communicator world) {
        torch::nn::Sequential blocks;
        for (int i = 0; i < 4; ++i) {
          blocks->push_back(torch::nn::Linear(6, 6));
          for (auto& parameter : blocks->ptr(i)->parameters())
            parameter.set_data(random(parameter.sizes().vec(), i));
        }
        for (int64_t micro_batches : {1, 2}) {
          auto wrapped = blocks | wanpar::block_pipeline({.stages = world, .micro_batches = micro_batches});
          require_exact(wanpar::verify(wrapped, {random({4, 6}, 8)}),
                        fmt::format("{} micro-batches", micro_batches));
        }
      },
      {1, 2, 3});
}

}  // namespace verify_test
