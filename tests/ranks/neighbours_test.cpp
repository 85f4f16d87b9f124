// Operators along split tokens that look at those of other ranks: convolutions and norms.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Mesh;

namespace neighbours_test {
namespace {

using Step = std::function<at::Tensor(at::Tensor x, at::Tensor weight, at::Tensor bias)>;

struct Case {
  std::string name;
  std::vector<int64_t> weight;
  Step step;  // x [2, 6, tokens, 3], or without the last dimension
  bool is_flat = false;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"conv2d", {6, 6, 3, 3}, [](auto x, auto w, auto b) { return at::conv2d(x, w, b, 1, 1); }},
      {"conv2d, depthwise, dilated",
       {6, 1, 5, 1},
       [](auto x, auto w, auto b) {
         return at::conv2d(x, w, b, 1, {4, 0}, {2, 1}, 6);
       }},
      {"conv1d, an even kernel, the same length",
       {6, 6, 4},
       [](auto x, auto w, auto b) { return at::conv1d(x, w, b, 1, "same"); },
       true},
      {"conv1d, a kernel longer than shares",
       {6, 6, 11},
       [](auto x, auto w, auto b) { return at::conv1d(x, w, b, 1, 5); },
       true},
      {"convolution",
       {6, 6, 3},
       [](auto x, auto w, auto b) { return at::convolution(x, w, b, {1}, {1}, {1}, false, {0}, 1); },
       true},
      {"group norm", {6}, [](auto x, auto w, auto b) { return at::group_norm(x, 3, w, b); }},
      {"group norm without weights", {}, [](auto x, auto, auto) { return at::group_norm(x, 2); }},
      {"instance norm",
       {6},
       [](auto x, auto w, auto b) { return at::instance_norm(x, w, b, {}, {}, true, 0.1, 1e-5, false); }},
      {"batch norm by statistics that it has",
       {6},
       [](auto x, auto w, auto b) {
         return at::batch_norm(x, w, b, at::ones_like(b), at::full_like(b, 2), false, 0.1, 1e-5, false);
       }},
  };
  return all;
}

at::Tensor random(std::vector<int64_t> shape, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

/// The step, and an attention over the tokens behind it, so that there are gradients from everywhere.
struct Attending {
  const Case& what;
  at::Tensor weight, bias;
  at::Tensor operator()(at::Tensor x) {
    x = what.step(x, weight, bias);
    auto tokens = x.dim() == 3 ? x.transpose(1, 2) : x.permute({0, 3, 2, 1});
    return at::scaled_dot_product_attention(tokens, tokens, tokens) + tokens;
  }
  wanpar::NamedTensors named_parameters() const { return {{"weight", weight}, {"bias", bias}}; }
};

Attending module_of(const Case& what) {
  return {what, random(what.weight, 1).requires_grad_(), random({6}, 2).requires_grad_()};
}

}  // namespace

TEST_CASE("convolutions and norms along split tokens: results and gradients of one rank") {
  on_worlds([](Communicator world) {
    for (auto& what : cases())
      for (bool over_ring : {true, false}) {
        auto alone = module_of(what), mine = module_of(what);
        auto outer = world.size() % 2 ? 1 : 2;
        Mesh mesh(world, {{"ring", over_ring ? world.size() : outer},
                          {"ulysses", over_ring ? 1 : world.size() / outer}});
        auto split = mine | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                       .ring = mesh["ring"],
                                                       .split = {{.arg = 0, .dim = 2}},
                                                       .min_share = 2});
        // No share of one: LibTorch 2.11 gives a wrong gradient of batch_norm there, on one rank too.
        for (int64_t tokens : {13, 9, 13, 24}) {
          auto shape = std::vector<int64_t>{2, 6, tokens, 3};
          if (what.is_flat) shape.pop_back();
          auto where = fmt::format("{}, {} tokens", what.name, tokens);
          auto x = random(shape, 3).requires_grad_(), same = random(shape, 3).requires_grad_();
          auto expected = alone(x), found = split(same);
          require_close(found, expected, 1e-9, where);
          auto scores = at::arange(expected.numel(), at::kDouble).sin().view(expected.sizes());
          for (auto* tensor : {&alone.weight, &alone.bias, &split.inner().weight, &split.inner().bias})
            tensor->mutable_grad().reset();
          (expected * scores).sum().backward();
          (found * scores).sum().backward();
          require_close(same.grad(), x.grad(), 1e-9, where + ", gradient of the tokens");
          for (auto [a, b] :
               {std::pair(split.inner().weight, alone.weight), std::pair(split.inner().bias, alone.bias)})
            if (b.grad().defined()) require_close(a.grad(), b.grad(), 1e-8, where + ", of the weights");
          at::NoGradGuard no_grad;
          for (int twice = 0; twice < 2; ++twice)
            require_close(split(same), expected, 1e-9, where + ", without gradients");
        }
      }
  });
}

TEST_CASE(
    "a convolution needs no attention, and is given all tokens where balanced shares have no neighbours") {
  on_worlds(
      [](Communicator world) {
        at::NoGradGuard no_grad;
        auto weight = random({6, 6, 3}, 1), x = random({2, 6, 13}, 2);
        auto module = [=](at::Tensor t) { return at::conv1d(t, weight, {}, 1, 1); };
        std::vector<wanpar::SplitInput> cut{{.arg = 0, .dim = 2}};
        auto split = module | wanpar::sequence_parallel({.ulysses = world, .split = cut, .min_share = 1});
        require_close(split(x), module(x), 1e-9, "a convolution alone");
        auto balanced = module | wanpar::sequence_parallel(
                                     {.ring = world, .split = cut, .balance_causal = true, .min_share = 1});
        require_close(balanced(x), module(x), 1e-9, "balanced");
      },
      {2, 3, 4});
}

}  // namespace neighbours_test
