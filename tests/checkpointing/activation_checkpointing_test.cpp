#include <ATen/autocast_mode.h>
#include <c10/util/intrusive_ptr.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn.h>
#include <mutex>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/recording.hpp>

#include "worlds.hpp"

using wanpar::activation_checkpointing;
using wanpar::Communicator;
using wanpar::Model;

namespace activation_checkpointing_test {
namespace {

constexpr int64_t kWidth = 8, kBlocks = 5;

/// What a test wants to know of its blocks, or wants them to do.
struct Watched {
  int runs = 0;
  std::vector<c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>> made = {};
  double dropout = 0;
  std::function<at::Tensor(at::Tensor)> extra = {};
};

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(Watched& watched) : watched(watched) {
    in = register_module("in", torch::nn::Linear(kWidth, 4 * kWidth));
    out = register_module("out", torch::nn::Linear(4 * kWidth, kWidth));
  }
  at::Tensor forward(at::Tensor x, const at::Tensor& shift) {
    ++watched.runs;
    auto h = at::gelu(in(x));
    watched.made.emplace_back(h.getIntrusivePtr());
    if (watched.dropout > 0) h = at::dropout(h, watched.dropout, true);
    auto y = x + out(h);
    if (shift.defined()) y = y + shift;
    return watched.extra ? watched.extra(y) : y;
  }
  Watched& watched;
  torch::nn::Linear in{nullptr}, out{nullptr};
};
TORCH_MODULE(Block);

struct StackImpl : torch::nn::Module {
  explicit StackImpl(Watched& watched) {
    for (int64_t i = 0; i < kBlocks; ++i)
      blocks.push_back(register_module(fmt::format("block{}", i), Block(watched)));
  }
  at::Tensor forward(at::Tensor x, at::Tensor shift = {}) { return wanpar::run_blocks(blocks, x, shift); }
  std::vector<Block> blocks;
};
TORCH_MODULE(Stack);

Stack stack(Watched& watched, at::ScalarType dtype = at::kDouble) {
  static std::mutex generator;  // LibTorch's random numbers come from one for all threads
  std::lock_guard lock(generator);
  torch::manual_seed(3);
  Stack model(watched);
  model->to(dtype);
  return model;
}

at::Tensor some(int64_t rows = 3) {
  return at::arange(rows * kWidth, at::kDouble).sin().view({rows, kWidth}).requires_grad_();
}

std::vector<at::Tensor> gradients_of(const Stack& model) {
  std::vector<at::Tensor> all;
  for (auto& parameter : model->parameters()) all.push_back(parameter.grad());
  return all;
}

void check_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(at::equal(a[i], b[i]));
}

bool says(const std::function<void()>& action, const std::string& part) {
  try {
    action();
  } catch (const wanpar::Error& error) {
    return std::string(error.what()).find(part) != std::string::npos;
  }
  return false;
}

}  // namespace

TEST_CASE("results and gradients are the same bits, and each block runs once more") {
  Watched bare, again;
  auto model = stack(bare), other = stack(again);
  auto x = some(), y = some(), shift = at::ones({kWidth}, at::kDouble).requires_grad_(),
       beside = at::ones({kWidth}, at::kDouble).requires_grad_();
  auto wrapped = other | activation_checkpointing();
  auto expected = model(x, shift), actual = wrapped(y, beside);
  CHECK(at::equal(expected, actual));
  CHECK(again.runs == kBlocks);
  expected.square().sum().backward();
  actual.square().sum().backward();
  CHECK(again.runs == 2 * kBlocks);
  check_equal(gradients_of(model), gradients_of(other));
  CHECK(at::equal(x.grad(), y.grad()));
  CHECK(at::equal(shift.grad(), beside.grad()));
}

TEST_CASE("what a block makes is not kept for backward, and not at all without gradients") {
  Watched watched;
  auto model = stack(watched);
  auto kept = [&] {
    return std::count_if(watched.made.begin(), watched.made.end(),
                         [](auto& weak) { return !weak.expired(); });
  };
  auto plain = model(some());
  CHECK(kept() == kBlocks);
  plain.reset();
  watched.made.clear();
  auto wrapped = model | activation_checkpointing();
  auto result = wrapped(some());
  CHECK(kept() == 0);
  result.sum().backward();
  CHECK(watched.made.size() == 2 * kBlocks);
  result.reset();
  watched.runs = 0;
  at::NoGradGuard no_grad;
  wrapped(some());
  CHECK(watched.runs == kBlocks);
}

TEST_CASE("dropout draws the numbers of the first time, and leaves the generator where it was") {
  Watched bare{.dropout = 0.5}, again{.dropout = 0.5};
  auto model = stack(bare), other = stack(again);
  auto wrapped = other | activation_checkpointing();
  torch::manual_seed(11);
  auto expected = model(some());
  expected.square().sum().backward();
  auto next = at::rand({3});
  torch::manual_seed(11);
  auto actual = wrapped(some());
  actual.square().sum().backward();
  CHECK(at::equal(next, at::rand({3})));
  CHECK(at::equal(expected, actual));
  check_equal(gradients_of(model), gradients_of(other));
}

TEST_CASE("autocast is in the second run what it was in the first, and the backward's own does not matter") {
  auto train = [](auto& model) {
    auto x = some().to(at::kFloat);
    at::Tensor y;
    {
      at::autocast::set_autocast_enabled(at::kCPU, true);
      y = model(x);
      at::autocast::set_autocast_enabled(at::kCPU, false);
    }
    y.to(at::kFloat).square().sum().backward();
    at::autocast::clear_cache();
  };
  Watched bare, again;
  auto model = stack(bare, at::kFloat), other = stack(again, at::kFloat);
  auto wrapped = other | activation_checkpointing();
  train(model), train(wrapped);
  check_equal(gradients_of(model), gradients_of(other));
}

TEST_CASE("several backwards, through one graph or through several, add up") {
  Watched watched;
  auto model = stack(watched);
  auto wrapped = model | activation_checkpointing();
  auto loss = wrapped(some()).square().sum();
  loss.backward({}, true);
  std::vector<at::Tensor> once;
  for (auto& gradient : gradients_of(model)) once.push_back(gradient.clone());
  loss.backward();
  wrapped(some()).square().sum().backward();
  for (auto& gradient : once) gradient.mul_(3);
  auto thrice = gradients_of(model);
  for (size_t i = 0; i < once.size(); ++i) CHECK(at::allclose(thrice[i], once[i], 1e-12));
  CHECK_THROWS(loss.backward());  // as LibTorch has it: what was saved is gone
}

TEST_CASE("a chain, a module of callables, and one that is gone before backward") {
  Watched watched;
  torch::manual_seed(3);
  at::Tensor loss;
  std::vector<at::Tensor> parameters;
  {
    torch::nn::Sequential chain(torch::nn::Linear(kWidth, kWidth), torch::nn::Tanh(),
                                torch::nn::Linear(kWidth, 1));
    parameters = chain->parameters();
    auto wrapped = chain | activation_checkpointing();
    auto moved = std::move(wrapped);
    loss = moved(some().to(at::kFloat)).sum();
  }
  loss.backward();
  for (auto& parameter : parameters) CHECK(parameter.grad().defined());
  {
    auto model = stack(watched);
    parameters = model->parameters();
    auto callables =
        wanpar::stack_of([](at::Tensor x) { return x; }, kBlocks,
                         [model](int64_t i, at::Tensor x, const std::vector<at::Tensor>&) mutable {
                           return model->blocks[i](x, at::Tensor());
                         },
                         [](at::Tensor x) { return x; });
    loss = (callables | activation_checkpointing())(some()).sum();
  }
  loss.backward();
  for (auto& parameter : parameters) CHECK(parameter.grad().defined());
}

TEST_CASE("blocks on devices of their own, either around the other") {
  Watched watched;
  auto model = stack(watched);
  model(some()).sum().backward();
  auto expected = gradients_of(model);
  wanpar::BlockDistributionOptions two{.devices = {at::kCPU, at::kCPU}};
  for (bool inside : {true, false}) {
    model->zero_grad();
    at::Tensor loss;
    if (inside)
      loss = (model | activation_checkpointing() | wanpar::block_distribution(two))(some()).sum();
    else
      loss = (model | wanpar::block_distribution(two) | activation_checkpointing())(some()).sum();
    watched.runs = 0;
    loss.backward();
    CHECK(watched.runs == kBlocks);
    check_equal(gradients_of(model), expected);
  }
}

TEST_CASE("a pipeline, or a batch split over ranks, inside of it") {
  on_worlds(
      [](Communicator world) {
        Watched watched;
        auto expected = stack(watched);
        expected(some(6)).square().sum().backward();
        auto check = [&](Stack model, Model inside, wanpar::BlockRange mine, const std::string& claim) {
          Model wrapped = inside | activation_checkpointing();
          wrapped(some(6)).square().sum().backward();
          for (int64_t i = 0; i < kBlocks; ++i) {
            auto actual = model->blocks[i]->parameters(), gradients = expected->blocks[i]->parameters();
            for (size_t p = 0; p < actual.size(); ++p) {
              auto where = fmt::format("{}, parameter {} of block {}", claim, p, i);
              bool is_mine = mine.begin <= i && i < mine.end;
              require(actual[p].grad().defined() == is_mine, where + " has a gradient where it runs");
              if (is_mine) require_close(actual[p].grad(), gradients[p].grad(), 1e-12, where);
            }
          }
        };
        auto model = stack(watched);
        auto mine = wanpar::equal_ranges(kBlocks, world.size())[world.rank()];
        check(model, model | wanpar::block_pipeline({.stages = world, .micro_batches = 2}), mine, "pipeline");
        model = stack(watched);
        check(model, model | wanpar::data_parallel({.group = world}), {0, kBlocks}, "data");
      },
      {2, 3});
}

TEST_CASE("frozen blocks before trained ones do not run again") {
  Watched watched;
  auto model = stack(watched);
  for (int64_t i = 0; i < 2; ++i)
    for (auto& parameter : model->blocks[i]->parameters()) parameter.set_requires_grad(false);
  auto result = (model | activation_checkpointing())(some().detach());
  watched.runs = 0;
  result.sum().backward();
  CHECK(watched.runs == kBlocks - 2);
}

TEST_CASE("what could not run again exactly is refused") {
  Watched watched;
  auto model = stack(watched);
  auto wrapped = model | activation_checkpointing();
  auto forward = [&] { wrapped(some()); };
  auto train = [&] { wrapped(some()).sum().backward(); };

  auto x = some();
  CHECK(says([&] { wrapped(x).sum().backward({}, std::nullopt, true); }, "without create_graph"));
  CHECK(says([&] { torch::autograd::grad({wrapped(x).sum()}, {x}); }, "call backward() without inputs"));
  auto is_second = [&] { return watched.runs > kBlocks; };
  watched.extra = [&](at::Tensor y) { return y.narrow(0, 0, 1 + y.size(0) * is_second() / 2); };
  watched.runs = 0;
  CHECK(says(train, "when it ran again"));
  watched.extra = [&](at::Tensor y) {
    return is_second() ? y + at::rand({2, y.size(0), y.size(1)}, y.options())[0] : at::dropout(y, 0.5, true);
  };
  watched.runs = 0;
  CHECK(says(train, "other random numbers"));
  watched.extra = {};
  CHECK(says([&] { (wrapped | activation_checkpointing())(some()); }, "wrap the module once"));
  forward();

  struct InPlaceImpl : torch::nn::Module {
    at::Tensor forward(at::Tensor x) { return x.add_(1); }
  };
  torch::nn::Sequential in_place(torch::nn::Linear(kWidth, kWidth), InPlaceImpl());
  CHECK(says([&] { (in_place | activation_checkpointing())(some().to(at::kFloat)); },
             "writes to what it is given"));
  torch::nn::Sequential counting{torch::nn::BatchNorm1d(kWidth)};
  CHECK(
      says([&] { (counting | activation_checkpointing())(some().to(at::kFloat)); }, "writes to its buffers"));
  torch::nn::Linear linear(kWidth, kWidth);
  CHECK(says([&] { (linear | activation_checkpointing())(some().to(at::kFloat)); }, "has no block stack"));
}

TEST_CASE("sharded weights come for the second run, and no oftener than for a backward") {
  on_worlds(
      [](Communicator world) {
        const int64_t n = world.size(), prefetch = 1;
        Watched watched;
        auto expected = stack(watched);
        expected(some()).square().mean().backward();
        const int64_t whole = [&] {
          int64_t bytes = 0;
          for (auto& parameter : expected->parameters()) bytes += static_cast<int64_t>(parameter.nbytes());
          return bytes;
        }();
        for (bool inside : {true, false}) {
          wanpar::Recording recording;
          wanpar::ShardedParamsOptions options{.group = recording(world), .prefetch = prefetch};
          auto model = stack(watched);
          auto step = [&](auto wrapped, auto& sharded) {
            for (int run = 0; run < 3; ++run) {
              for (auto& shard : sharded.parameters()) shard.mutable_grad().reset();
              recording.clear();
              sharded.reset_peak();
              wrapped(some()).square().mean().backward();
              auto gathered = recording.totals()[wanpar::Operation::all_gather].bytes;
              auto bytes = world.all_reduce(at::tensor({gathered})).get().template item<int64_t>();
              auto again = whole - (prefetch + 1) * whole / kBlocks;
              require(bytes == (n - 1) * (whole + again),
                      fmt::format("{} bytes are gathered, {} expected", bytes, (n - 1) * (whole + again)));
              require(sharded.memory().peak <= (prefetch + 1) * whole / kBlocks,
                      "two blocks are here at most");
              require(sharded.memory().resident == 0, "none are at the end");
            }
            for (auto& shard : sharded.parameters()) shard.data().copy_(shard.grad());
            auto parameters = expected->named_parameters();
            sharded.each_parameter([&](auto& name, auto& value) {
              require_close(value, parameters[name].grad(), 1e-12, "gradient of " + name);
            });
          };
          if (inside) {
            auto sharded = model | activation_checkpointing() | wanpar::sharded_params(options);
            step(sharded, sharded);
          } else {
            auto sharded = model | wanpar::sharded_params(options);
            step(sharded | activation_checkpointing(), sharded);
          }
        }
      },
      {2, 3, 4});
}

}  // namespace activation_checkpointing_test
