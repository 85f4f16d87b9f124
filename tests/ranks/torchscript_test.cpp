// TorchScript as it comes: traced, scripted, frozen, optimised, with its fuser on.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/csrc/jit/codegen/fuser/interface.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/csrc/jit/tensorexpr/kernel.h>
#include <torch/jit.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "worlds.hpp"

using wanpar::Communicator;

namespace torchscript_test {
namespace {

at::Tensor random(std::vector<int64_t> shape) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(7));
}

torch::jit::Module attention() { return torch::jit::load(TEST_DATA "/attention.pt"); }

/// On each ulysses x ring mesh; each run of the executor's profiling, and some after it.
void require_split_exactly(const torch::jit::Module& module) {
  at::NoGradGuard inference;
  std::vector<at::Tensor> inputs, expected;
  for (int64_t tokens : {37, 13, 4}) {
    inputs.push_back(random({1, tokens, 48}));
    expected.push_back(attention().forward({inputs.back()}).toTensor());
  }
  on_worlds([&](Communicator world) {
    at::NoGradGuard rank_inference;
    for (int64_t ulysses = 1; ulysses <= world.size(); ++ulysses) {
      if (world.size() % ulysses) continue;
      wanpar::Mesh mesh(world, {{"ring", world.size() / ulysses}, {"ulysses", ulysses}});
      auto split = module | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                       .ring = mesh["ring"],
                                                       .split = {{.arg = 0, .dim = 1}},
                                                       .min_share = 1});
      for (int run = 0; run < 4; ++run)
        for (size_t i = 0; i < inputs.size(); ++i)
          require_close(split(inputs[i]), expected[i], 1e-5,
                        fmt::format("ulysses {}, run {}, {} tokens", ulysses, run, inputs[i].size(1)));
    }
  });
}

/// LibTorch's fuser for the CPU, which is off unless it is asked for.
class Fuser {
 public:
  Fuser() {
    torch::jit::setTensorExprFuserEnabled(true);
    torch::jit::overrideCanFuseOnCPU(true);
    torch::jit::tensorexpr::getTEMustUseLLVMOnCPU() = false;
  }
  ~Fuser() {
    torch::jit::setTensorExprFuserEnabled(enabled_);
    torch::jit::overrideCanFuseOnCPU(on_cpu_);
    torch::jit::tensorexpr::getTEMustUseLLVMOnCPU() = must_compile_;
  }

 private:
  bool enabled_ = torch::jit::tensorExprFuserEnabled(), on_cpu_ = torch::jit::canFuseOnCPU(),
       must_compile_ = torch::jit::tensorexpr::getTEMustUseLLVMOnCPU();
};

torch::jit::Module pointwise() {
  torch::jit::Module module("pointwise");
  module.register_parameter("scale", at::linspace(1, 2, 48), false);
  module.register_parameter("shift", at::linspace(-1, 1, 48), false);
  module.define(
      "def forward(self, x):\n    return torch.tanh(torch.sigmoid(x * self.scale) + self.shift) * x\n");
  return module;
}

}  // namespace

TEST_CASE("a file traced in Python is split without a change") { require_split_exactly(attention()); }

TEST_CASE("a frozen module, which has no parameters left, is split as well, and cannot be sharded") {
  auto frozen = torch::jit::freeze(attention());
  CHECK(frozen.parameters().size() == 0);
  require_split_exactly(frozen);
  on_worlds([&](Communicator world) {
    require_error([&] { frozen | wanpar::sharded_params({.group = world}); }, "has no parameters");
  });
}

TEST_CASE("TorchScript that a module calls is looked at like the module, in gradients too") {
  on_worlds(
      [](Communicator world) {
        auto unit = torch::jit::compile("def f(x, w):\n    return torch.tanh(torch.matmul(x, w)) * x\n");
        auto weight = random({16, 16}).requires_grad_();
        auto module = [=](at::Tensor x) { return unit->run_method("f", x, weight).toTensor(); };
        auto split = wanpar::Model(module) | wanpar::sequence_parallel({.ulysses = world, .split = {{0, 1}}});
        auto x = random({1, 40, 16}), seed = random({1, 40, 16});
        auto expected = torch::autograd::grad({(at::tanh(at::matmul(x, weight)) * x * seed).sum()}, {weight});
        for (int run = 0; run < 4; ++run)
          require_close(torch::autograd::grad({(split(x) * seed).sum()}, {weight})[0], expected[0], 1e-4,
                        fmt::format("run {}", run));
      },
      {2, 3});
}

TEST_CASE("one optimised for inference is split") {
  auto module = attention();
  auto optimised = torch::jit::optimize_for_inference(module);
  require_split_exactly(optimised);
}

TEST_CASE("the fuser hides neither operators nor parameters of a wrapped module") {
  Fuser fuser;
  at::NoGradGuard no_grad;
  auto x = random({2, 9, 48});
  auto operators = [&](auto& module) {
    struct Counting : wanpar::OperatorHandler {
      wanpar::Tensors around(const wanpar::Operator& op, const Next& next) override {
        ++count;
        return next(op);
      }
      int count = 0;
    } counting;
    wanpar::Scope scope(counting);
    module.forward({x});
    return counting.count;
  };
  auto bare = pointwise();
  auto expected = bare.forward({x}).toTensor();
  for (int run = 0; run < 3; ++run) bare.forward({x});
  REQUIRE(operators(bare) == 1);  // it has fused them

  on_worlds([&](Communicator world) {
    at::NoGradGuard inference;
    auto sharded = pointwise() | wanpar::sharded_params({.group = world});
    for (int run = 0; run < 5; ++run)
      require_close(sharded(x), expected, 1e-6, fmt::format("sharded, run {}", run));
  });
  require_split_exactly(attention());
}

}  // namespace torchscript_test
