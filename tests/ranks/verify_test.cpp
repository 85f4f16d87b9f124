#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/module/verify.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "models/attention_model.hpp"
#include "worlds.hpp"

using wanpar::Communicator;

namespace {

/// Makes the input of every GELU a little larger, as a strategy might that carries it wrongly.
struct Bends : wanpar::Handler {
  void before(const wanpar::Operator& op) override {
    if (op.name == "aten::gelu") op.inputs[0] = op.inputs[0] * 1.01;
  }
};

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
    auto split = model | wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 1}}});
    auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
    auto found = wanpar::verify(split, {at::randn({2, 11, 48}, generator)});
    require(!found.first,
            fmt::format("no operator differs, as {} at {} does by {}", found.first ? found.first->name : "",
                        found.first ? found.first->index : 0, found.first ? found.first->difference : 0));
    require(found.difference < 1e-5, "the results are equal");
    require(found.operators > 20, "operators were compared");
  });
}
