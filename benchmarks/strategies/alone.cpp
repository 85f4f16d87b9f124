#include <fmt/format.h>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <algorithm>
#include <chrono>

#include "tables.hpp"

using wanpar::Model;

namespace {

double seconds(Model& model, const at::Tensor& x) {
  auto begin = std::chrono::steady_clock::now();
  model(x);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

void print_cost_alone() {
  constexpr int kPairs = 101;
  using Wrap = std::function<Model(AttentionModel)>;
  const wanpar::Communicator alone;
  const std::vector<std::pair<std::string, Wrap>> strategies{
      {"nothing: a second copy of the bare module", [](auto model) { return Model(model); }},
      {"SequenceParallel",
       [](auto model) {
         return Model(model | wanpar::sequence_parallel({.split = {{.arg = 0, .dim = 1}}}));
       }},
      {"ShardedParams", [&](auto model) { return Model(model | wanpar::sharded_params({.group = alone})); }},
      {"DataParallel", [&](auto model) { return Model(model | wanpar::data_parallel({.group = alone})); }},
      {"BlockPipeline", [&](auto model) { return Model(model | wanpar::block_pipeline({.stages = alone})); }},
  };
  fmt::print(
      "\n## Wrapped over a group of one, time over bare\n\nA forward without gradients, bare and wrapped in "
      "turn, {} times; the median of the ratios. The first row is how far two copies\nof the same module are "
      "apart.\n\n"
      "| strategy | time | same bits |\n|---|---|---|\n",
      kPairs);
  at::NoGradGuard no_grad;
  auto x = random({2, 2048, 48}, at::kFloat);
  for (auto& [name, wrap] : strategies) {
    Model bare(make_model(at::kFloat)), wrapped = wrap(make_model(at::kFloat));
    bool same = wrapped(x).equal(bare(x));
    std::vector<double> ratios;
    for (int i = 0; i < kPairs; ++i) {
      bool first = i % 2 == 0;  // neither is always the one that finds the caches warm
      auto one = first ? seconds(bare, x) : 0;
      auto other = seconds(wrapped, x);
      ratios.push_back(other / (first ? one : seconds(bare, x)));
    }
    std::nth_element(ratios.begin(), ratios.begin() + kPairs / 2, ratios.end());
    fmt::print("| {} | {:+.1f} % | {} |\n", name, 100 * (ratios[kPairs / 2] - 1), same ? "yes" : "NO");
  }
}
