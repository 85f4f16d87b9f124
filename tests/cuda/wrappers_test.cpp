#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/autocast_mode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/utils.h>

#include <mutex>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include "cuda.hpp"
#include "models/sequential.hpp"
#include "worlds.hpp"

using namespace wanpar::conformance::models;

using wanpar::Communicator;
using wanpar::Model;

namespace wrappers_test {
namespace {

constexpr int64_t kWidth = 128;

/// Four blocks of attention, 201 tokens: uneven for all.
torch::nn::Sequential transformer(at::ScalarType dtype, at::Device device = kCuda) {
  static std::mutex generator;  // LibTorch's random numbers come from one for all threads
  std::lock_guard lock(generator);
  torch::manual_seed(5);
  torch::nn::Sequential model;
  for (int i = 0; i < 4; ++i) model->push_back(SelfAttention(kWidth, 8));
  model->to(device, dtype);
  return model;
}

at::Tensor tokens(at::ScalarType dtype, at::Device device = kCuda) {
  auto all = at::randn({3, 201, kWidth}, at::make_generator<at::CPUGeneratorImpl>(7), at::kDouble);
  return all.to(dtype).to(device);
}

struct Outcome {
  at::Tensor result, gradient;
};

Outcome run(const Model& model, at::Tensor x, bool autocast = false) {
  x = x.detach().requires_grad_();
  auto before = at::autocast::is_autocast_enabled(at::kCUDA);
  at::autocast::set_autocast_enabled(at::kCUDA, autocast);
  at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
  auto y = model(x);
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCUDA, before);
  (y * at::arange(1, y.numel() + 1, y.options().dtype(at::kDouble)).sin().view(y.sizes())).sum().backward();
  return {y.detach(), x.grad()};
}

using Wrap = std::function<Model(torch::nn::Sequential, Communicator)>;

const std::vector<std::pair<std::string, Wrap>>& wrappers() {
  static const std::vector<wanpar::SplitInput> split{{.arg = 0, .dim = 1}};
  static const std::vector<std::pair<std::string, Wrap>> all{
      {"Ulysses",
       [](auto model, auto world) {
         return model | wanpar::sequence_parallel({.ulysses = world, .split = split});
       }},
      {"ring", [](auto model,
                  auto world) { return model | wanpar::sequence_parallel({.ring = world, .split = split}); }},
      {"ShardedParams",
       [](auto model, auto world) { return model | wanpar::sharded_params({.group = world}); }},
      {"DataParallel",
       [](auto model, auto world) { return model | wanpar::data_parallel({.group = world}); }},
      {"BlockPipeline",
       [](auto model, auto world) {
         return model | wanpar::block_pipeline({.stages = world, .micro_batches = 2});
       }},
  };
  return all;
}

void on_cuda_worlds(const std::function<void(Communicator)>& claim) { on_worlds(claim, {2, 3}); }

/// Bytes of the device that tensors hold.
int64_t held() { return at::accelerator::getDeviceStats(0).allocated_bytes[0].current; }

}  // namespace

TEST_CASE("each wrapper around a transformer on CUDA, in float32, bfloat16 and under autocast" *
          doctest::skip(no_cuda())) {
  without_tf32();
  struct Kind {
    std::string name;
    at::ScalarType dtype;
    bool autocast;
    double result, gradient;  // the largest relative errors
  };
  const std::vector<Kind> kinds{{"float32", at::kFloat, false, 1e-5, 1e-5},
                                {"bfloat16", at::kBFloat16, false, 1e-2, 2e-2},
                                {"autocast", at::kFloat, true, 1e-2, 2e-2}};
  for (auto& kind : kinds) {
    auto x = tokens(kind.dtype);
    auto expected = run(Model(transformer(kind.dtype)), x, kind.autocast);
    for (auto& [name, wrap] : wrappers()) {
      INFO(kind.name, ", ", name);
      on_cuda_worlds([&](Communicator world) {
        auto actual = run(wrap(transformer(kind.dtype), world), x, kind.autocast);
        require(actual.result.scalar_type() == expected.result.scalar_type(), "the dtype");
        require_relative(actual.result, expected.result, kind.result, "result");
        require_relative(actual.gradient, expected.gradient, kind.gradient, "gradient");
      });
    }
  }
}

TEST_CASE("sharded parameters on CUDA hold the memory of their shards only" * doctest::skip(no_cuda())) {
  if (is_one_of_several_processes()) return;
  constexpr int64_t kBig = 2048, kBlocks = 6;
  auto block = int64_t{4} * kBig * kBig;
  auto before = held();
  wanpar::local::run(3, [&](Communicator world) {
    torch::nn::Sequential model;
    for (int64_t i = 0; i < kBlocks; ++i) model->push_back(torch::nn::Linear(kBig, kBig));
    model->to(kCuda);
    auto wrapped = model | wanpar::sharded_params({.group = world});
    auto few = [&](const std::string& when, int64_t blocks) {
      world.barrier();
      auto bytes = held() - before;
      world.barrier();
      require(bytes < blocks * block + block / 2,
              fmt::format("{}: {:.1f} blocks are held", when, static_cast<double>(bytes) / block));
    };
    few("after wrapping", kBlocks);
    auto x = at::ones({4, kBig}, kCuda);
    {
      at::NoGradGuard no_grad;
      wrapped(x);
      few("after a forward", kBlocks);
    }
    wrapped(x).sum().backward();
    few("after a backward, with its gradients", 2 * kBlocks);
  });
  CHECK(held() - before < block);
}

TEST_CASE("blocks distributed over the CPU and CUDA, or over CUDA twice" * doctest::skip(no_cuda())) {
  if (is_one_of_several_processes()) return;
  const std::vector<std::vector<at::Device>> lists{{at::kCPU, kCuda}, {kCuda, at::kCPU}, {kCuda, kCuda}};
  for (auto& devices : lists) {
    auto home = devices[0];
    auto bare = transformer(at::kDouble, home), model = transformer(at::kDouble, home);
    auto x = tokens(at::kDouble, home);
    auto expected = run(Model(bare), x);
    auto actual = run(model | wanpar::block_distribution({.devices = devices}), x);
    CHECK(actual.result.device() == home);
    CHECK(relative_error(actual.result, expected.result) < 1e-12);
    CHECK(relative_error(actual.gradient, expected.gradient) < 1e-12);
    auto wanted = bare->parameters(), got = model->parameters();
    for (size_t i = 0; i < wanted.size(); ++i) {
      CHECK(got[i].device() == devices[2 * i / wanted.size()]);
      CHECK(relative_error(got[i].grad(), wanted[i].grad()) < 1e-12);
    }
  }
}

TEST_CASE("blocks run again on CUDA draw the dropout of the first time" * doctest::skip(no_cuda())) {
  if (is_one_of_several_processes()) return;
  auto with_dropout = [] {
    auto blocks = transformer(at::kDouble);
    torch::nn::Sequential model;
    for (auto& block : *blocks) {
      model->push_back(block);
      model->push_back(torch::nn::Dropout(0.5));
    }
    model->to(kCuda);
    return model;
  };
  auto x = tokens(at::kDouble);
  auto bare = with_dropout(), model = with_dropout();
  torch::manual_seed(11);
  auto expected = run(Model(bare), x);
  auto next = at::rand({3}, kCuda);
  torch::manual_seed(11);
  auto actual = run(model | wanpar::activation_checkpointing(), x);
  CHECK(at::equal(next, at::rand({3}, kCuda)));
  CHECK(at::equal(actual.result, expected.result));
  CHECK(relative_error(actual.gradient, expected.gradient) < 1e-12);
}

}  // namespace wrappers_test
