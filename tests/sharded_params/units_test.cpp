// Which parameters come and go together.
#include <doctest/doctest.h>
#include <torch/script.h>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <map>

#include "models.hpp"
#include "models/sequential.hpp"

using namespace wanpar::conformance::models;

using wanpar::Model;

namespace units_test {
namespace {

/// The blocks that a module passes in a forward, by their tensors.
struct Blocks : wanpar::BlocksHandler {
  at::Tensor run_blocks(const wanpar::BlockStack& stack, at::Tensor x, std::vector<at::Tensor> side,
                        const NextBlocks& next) override {
    for (int64_t i = 0; i < stack.size; ++i) each.push_back(stack.tensors(i));
    return next(stack, std::move(x), std::move(side));
  }
  std::vector<wanpar::NamedTensors> each;
};

/// Layers of three kinds, told of by no number.
struct HourglassImpl : torch::nn::Module {
  HourglassImpl() {
    down = register_module("down", torch::nn::Sequential(torch::nn::Linear(12, 6), torch::nn::GELU()));
    middle = register_module("middle", torch::nn::Sequential(SelfAttention(6, 2)));
    up = register_module("up", torch::nn::Sequential(torch::nn::Linear(6, 12), torch::nn::Linear(12, 12)));
  }
  at::Tensor forward(at::Tensor x) {
    std::vector<torch::nn::Sequential> levels{down, middle, up};
    return wanpar::run_blocks(levels, x);
  }
  torch::nn::Sequential down{nullptr}, middle{nullptr}, up{nullptr};
};
TORCH_MODULE(Hourglass);

/// The units' parameters, by the addresses of the tensors.
std::map<const void*, std::string> unit_of_each(const wanpar::NamedTensors& parameters, const Model& model) {
  auto units = (model | wanpar::sharded_params({})).units();
  std::map<const void*, std::string> all;
  for (auto& [name, tensor] : parameters)
    for (auto& unit : units)
      if (name.starts_with(unit + ".") || name == unit) all[tensor.unsafeGetTensorImpl()] = unit;
  return all;
}

}  // namespace

TEST_CASE("a number at the end of a name makes no list, and merges none") {
  struct Numbered : torch::nn::Module {
    Numbered() {
      register_module("embed2", torch::nn::Embedding(100, 8));
      auto blocks = register_module("blocks", torch::nn::ModuleList());
      for (int i = 0; i < 3; ++i) blocks->push_back(torch::nn::Linear(8, 8));
      register_module("fc1", torch::nn::Linear(8, 2));
    }
    at::Tensor forward(const at::Tensor& x) { return x; }
  };
  auto wrapped = Model(std::make_shared<Numbered>()) | wanpar::sharded_params({});
  CHECK(wrapped.units() == std::vector<std::string>{"embed2", "blocks.0", "blocks.1", "blocks.2", "fc1"});
}

TEST_CASE("no unit reaches over the blocks that a module states by run_blocks") {
  auto check = [](auto module, const at::Tensor& x) {
    wanpar::ByBlocks<decltype(module)> by_blocks(module);
    Blocks blocks;
    {
      wanpar::Scope scope(blocks);
      by_blocks(module, x);
    }
    REQUIRE(blocks.each.size() >= 2);
    auto unit = unit_of_each(wanpar::named_parameters(module), Model(module));
    std::map<std::string, size_t> block_of;
    for (size_t i = 0; i < blocks.each.size(); ++i)
      for (auto& [name, tensor] : blocks.each[i]) {
        auto found = unit.find(tensor.unsafeGetTensorImpl());
        if (!tensor.requires_grad()) continue;  // a buffer
        REQUIRE(found != unit.end());
        CHECK(block_of.try_emplace(found->second, i).first->second == i);
      }
  };
  check(Hourglass(), at::ones({1, 5, 12}));
  check(sequential_model(), at::ones({1, 5, 12}));
  check(perceptron(), at::ones({1, 32}));
  check(torch::jit::load(TEST_DATA "/attention.pt"), at::ones({1, 5, 48}));
}

TEST_CASE("units are the items of the outermost lists, or what the user says") {
  auto units = [](Model model, std::vector<std::string> named = {}) {
    return (model | wanpar::sharded_params({.units = std::move(named)})).units();
  };
  using Names = std::vector<std::string>;
  CHECK(units(Model(AttentionModel().ptr())) == Names{"block0", "block1"});
  CHECK(units(Model(perceptron(8, 3).ptr())) == Names{"0", "2", "4"});
  CHECK(units(Model(torch::jit::load(TEST_DATA "/attention.pt"))) == Names{"0", "1"});
  CHECK(units(Model(Zoo().ptr())) == Names{"root", "recurrent", "conv", "norm", "last"});
  CHECK(units(Model(AttentionModel().ptr()), {"block1.mlp", "block1"}) ==
        Names{"root", "block1", "block1.mlp"});
  CHECK_THROWS_WITH_AS(units(Model(AttentionModel().ptr()), {"block7"}),
                       "ShardedParams: .units names 'block7', where the module has no parameters; known are "
                       "block0, block1",
                       wanpar::Error);
}

TEST_CASE("small units are joined with those after them") {
  auto units = [](int64_t min_bytes, std::vector<std::string> named = {}) {
    return (Model(perceptron(8, 5).ptr()) |
            wanpar::sharded_params({.units = std::move(named), .min_unit_bytes = min_bytes}))
        .units();
  };
  using Names = std::vector<std::string>;
  CHECK(units(288) == Names{"0", "2", "4", "6", "8"});  // the bytes of one layer
  CHECK(units(289) == Names{"0 to 2", "4 to 6", "8"});
  CHECK(units(1 << 20) == Names{"0 to 8"});
  CHECK(units(289, {"2"}) == Names{"root", "2"});
  CHECK_THROWS_WITH_AS(units(-1), "ShardedParams: .min_unit_bytes is -1; it must be 0 or more",
                       wanpar::Error);
}

}  // namespace units_test
