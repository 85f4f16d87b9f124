#include <fmt/format.h>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <algorithm>
#include <ctime>

#include "limits.hpp"
#include "tables.hpp"

using wanpar::Model;

namespace {

constexpr double kMost = 0.01;

/// What a later pass of a split module is to all operators but attention.
struct LaterPass {
  struct HasLearnt : wanpar::OperatorHandler {
    wanpar::Tensors around(const wanpar::Operator& op, const Next& next) override { return next(op); }
    bool intercepts_operators() const override { return false; }
  };

  at::Tensor operator()(at::Tensor x) {
    HasLearnt handler;
    wanpar::Scope scope(handler);
    return model(std::move(x));
  }

  AttentionModel model;
};

struct Candidate {
  std::string name;
  std::function<Model(AttentionModel)> wrap;
  bool trains = true;  ///< some are asked for a forward only, or compute anew in backward by intention
};

std::vector<Candidate> candidates() {
  const wanpar::Communicator alone;
  auto blocks = [](const AttentionModel& model) {
    auto same = [](at::Tensor x) { return x; };
    return wanpar::stack_of(
        same, static_cast<int64_t>(model->blocks.size()),
        [model](int64_t i, at::Tensor x, const std::vector<at::Tensor>&) {
          auto block = model->blocks[i];
          return block(x, at::Tensor(), std::nullopt);
        },
        same,
        [model](int64_t i) {
          auto block = model->blocks[i].ptr();
          return wanpar::tensors_of(block);
        });
  };
  return {
      {"nothing: the bare module again", [](auto model) { return Model(model); }},
      {"nothing: a strategy that has learnt all it needs, as in later passes",
       [](auto model) { return Model(LaterPass{model}); }, false},
      {"SequenceParallel",
       [](auto model) {
         return Model(model | wanpar::sequence_parallel({.split = {{.arg = 0, .dim = 1}}, .min_share = 1}));
       }},
      {"ShardedParams", [=](auto model) { return Model(model | wanpar::sharded_params({.group = alone})); }},
      {"DataParallel", [=](auto model) { return Model(model | wanpar::data_parallel({.group = alone})); }},
      {"BlockPipeline", [=](auto model) { return Model(model | wanpar::block_pipeline({.stages = alone})); }},
      {"BlockDistribution over one device",
       [=](auto model) {
         return Model(blocks(model) | wanpar::block_distribution({.devices = {at::kCPU}}));
       }},
      {"ActivationCheckpointing",
       [=](auto model) { return Model(blocks(model) | wanpar::activation_checkpointing()); }, false},
  };
}

at::Tensor run(Model& model, const at::Tensor& x, bool trains) {
  auto result = model(x);
  if (trains) result.sum().backward();
  return result.detach();
}

/// What a call costs this thread, which does all the work: other work on the machine is no part of it.
double seconds(Model& model, const at::Tensor& x, bool trains) {
  auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  auto begin = now();
  run(model, x, trains);
  return now() - begin;
}

/// Of wrapped over bare, in ascending order; the two run in turn.
std::vector<double> ratios(Model& bare, Model& wrapped, const at::Tensor& x, bool trains, int pairs) {
  std::vector<double> all;
  for (int i = 0; i < pairs; ++i) {
    bool first = i % 2 == 0;  // neither is always the one that finds the caches warm
    auto one = first ? seconds(bare, x, trains) : 0;
    auto other = seconds(wrapped, x, trains);
    all.push_back(other / (first ? one : seconds(bare, x, trains)));
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace

void print_cost_alone() {
  constexpr int kPairs = 801;
  at::set_num_threads(1);
  fmt::print(
      "\n## Wrapped over a group of one, time over bare\n\nCPU time of one thread, bare and wrapped in turn, "
      "{} times: the median of the ratios, and between what the middle half of them lies. The\nfirst row is "
      "how far the bare module is apart from itself. Limits: {:.0f} %, the same bits.\n\n| strategy | "
      "what | time | middle half | same bits |\n|---|---|---|---|---|\n",
      kPairs, 100 * kMost);
  for (bool trains : {false, true})
    for (auto& [name, wrap, can_train] : candidates()) {
      if (trains && !can_train) continue;
      at::AutoGradMode mode(trains);
      auto x = random({2, trains ? 128 : 256, 48}, at::kFloat).requires_grad_(trains);
      // The same weights, at the same place: where they lie makes more of a difference than a wrapper.
      auto model = make_model(at::kFloat);
      Model bare(model);
      auto expected = run(bare, x, trains);
      auto gradient = trains ? x.grad().clone() : at::Tensor();
      if (trains) x.mutable_grad().zero_();
      auto wrapped = wrap(model);
      bool same = run(wrapped, x, trains).equal(expected) && (!trains || x.grad().equal(gradient));
      auto found = ratios(bare, wrapped, x, trains, kPairs);
      auto percent = [&](int quarter) { return 100 * (found[quarter * kPairs / 4] - 1); };
      auto what = trains ? "forward and backward" : "forward";
      fmt::print("| {} | {} | {:+.1f} % | {:+.1f} to {:+.1f} % | {} |\n", name, what, percent(2), percent(1),
                 percent(3), same ? "yes" : "NO");
      check(fmt::format("{} alone, {}: time over bare", name, what), found[kPairs / 2], 1 + kMost);
      check(fmt::format("{} alone, {}: other bits", name, what), !same, 0);
    }
}
