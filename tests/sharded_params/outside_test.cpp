// The module behind a wrapper, used as if it were not wrapped: right, or one clear error.
#include <doctest/doctest.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <torch/serialize.h>
#include <wanpar/strategy/sharded_params.hpp>

#include <sstream>

#include "sharded_params/models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace outside_test {
namespace {

struct Use {
  const char* name;
  std::function<void(torch::nn::Sequential&, at::Tensor& weight)> run;
};

/// Everything that wants the values of a parameter, in the ways in which people want them.
std::vector<Use> reads_and_writes() {
  auto x = at::ones({2, 32});
  return {{"sum", [](auto&, auto& w) { (void)w.sum(); }},
          {"print", [](auto&, auto& w) { std::ostringstream() << w; }},
          {"clone", [](auto&, auto& w) { (void)w.clone(); }},
          {"an element", [](auto&, auto& w) { (void)w[0][0].template item<float>(); }},
          {"a view", [](auto&, auto& w) { (void)w.t(); }},
          {"a list",
           [](auto& m, auto&) {
             (void)at::cat({m->parameters()[0], m->parameters()[0]});
           }},
          {"isnan", [](auto&, auto& w) { (void)w.isnan().any(); }},
          {"zero_", [](auto&, auto& w) { w.zero_(); }},
          {"data clamp_", [](auto&, auto& w) { w.data().clamp_(0, 1); }},
          {"detach mul_", [](auto&, auto& w) { w.detach().mul_(2); }},
          {"copy_ into",
           [](auto&, auto& w) {
             w.copy_(at::ones({32, 32}));
           }},
          {"copy_ out of",
           [](auto&, auto& w) {
             at::empty({32, 32}).copy_(w);
           }},
          {"equal", [](auto&, auto& w) { (void)at::equal(w, w); }},
          {"init", [](auto&, auto& w) { torch::nn::init::xavier_uniform_(w); }},
          {"parameters_to_vector",
           [](auto& m, auto&) { (void)torch::nn::utils::parameters_to_vector(m->parameters()); }},
          {"clone of the module", [](auto& m, auto&) { (void)m->clone(); }},
          {"to", [](auto& m, auto&) { m->to(at::kDouble); }},
          {"forward of the module", [x](auto& m, auto&) { (void)m->forward(x); }},
          {"load", [](auto& m, auto&) {
             std::stringstream stream;
             torch::save(perceptron(), stream);
             torch::load(m, stream);
           }}};
}

}  // namespace

TEST_CASE("values that are not here are never read nor written: each use is an error that names one") {
  on_worlds(
      [&](Communicator world) {
        auto module = seeded([] { return perceptron(); });
        auto sharded = module | wanpar::sharded_params({.group = world});
        sharded(at::ones({2, 32})).sum().backward();
        at::NoGradGuard no_grad;
        for (auto& use : reads_and_writes())
          require_error([&] { use.run(module, module->parameters()[0]); }, "which is sharded");
        // LibTorch writes bytes without asking an operator; it refuses their device.
        std::ostringstream stream;
        require_error_of_any_kind([&] { torch::save(module, stream); }, "on different device");
        require(module->parameters()[0].sizes() == at::IntArrayRef({32, 32}), "shapes can be asked for");
      },
      {2, 3});
}

}  // namespace outside_test
