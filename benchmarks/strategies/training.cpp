#include <fmt/format.h>
#include <torch/optim.h>
#include <wanpar/core/pipeline_schedule.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <cmath>
#include <map>

#include "limits.hpp"
#include "tables.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace {

/// Of the time from the first event of any stage to the last one.
double idle_share_of_worst_stage(const std::vector<wanpar::PipelineEvent>& events) {
  std::map<int64_t, double> busy;
  double begin = events.at(0).begin, end = begin;
  for (auto& event : events) {
    busy[event.stage] += event.end - event.begin;
    begin = std::min(begin, event.begin), end = std::max(end, event.end);
  }
  double most = 0;
  for (auto& [stage, time] : busy) most = worse(most, 1 - time / (end - begin));
  return most;
}

}  // namespace

void print_bubble() {
  const int64_t stages = 4, micro_batches = 8;
  std::vector<std::vector<wanpar::PipelineEvent>> recorded(stages);
  wanpar::local::run(stages, [&](Communicator world) {
    torch::nn::Sequential model;
    for (int64_t i = 0; i < stages; ++i) model->push_back(torch::nn::Linear(16, 16));
    auto wrapped = model | wanpar::block_pipeline({.stages = world, .micro_batches = micro_batches});
    auto loss = [](const at::Tensor& y, const at::Tensor& target) { return (y - target).square().mean(); };
    auto x = random({2 * micro_batches, 16}, at::kFloat);
    for (int step = 0; step < 2; ++step) wrapped.train_step({x}, x, loss);  // the first one learns
    recorded[world.rank()] = wrapped.trace();
  });
  auto timed = wanpar::with_unit_costs(recorded);
  auto formula = static_cast<double>(stages - 1) / static_cast<double>(micro_batches + stages - 1);
  auto found = wanpar::bubble(timed), most_idle = idle_share_of_worst_stage(timed);
  fmt::print(
      "\n## Pipeline of 4 stages, 8 micro-batches, 1F1B: the bubble of the recorded order at unit costs\n\n"
      "Not a time: the order in which each stage carried out its forwards and backwards in a training step, "
      "each then taken to cost\none unit and transfers nothing. Idle: {:.4f} of all stages, {:.4f} of the "
      "one "
      "that idles most; the limit is\n(S - 1) / (M + S - 1) = {:.4f}.\n",
      found, most_idle, formula);
  check("bubble of the pipeline", found, formula + 1e-9);
  check("bubble of the stage that idles most", most_idle, formula + 1e-9);
}

namespace {

std::vector<double> losses(Model model, std::vector<at::Tensor> parameters, const at::Tensor& x,
                           const at::Tensor& y, const Communicator& world) {
  torch::optim::AdamW optimizer(std::move(parameters), torch::optim::AdamWOptions(1e-3));
  std::vector<double> result;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    auto loss = (model(x) - y).square().mean();
    loss.backward();
    optimizer.step();
    result.push_back(world.all_reduce(loss.detach(), wanpar::ReduceOp::mean).get().item<double>());
  }
  return result;
}

std::vector<double> losses_over(const std::string& strategy, AttentionModel model, const at::Tensor& x,
                                const at::Tensor& y, const Communicator& world) {
  if (strategy == "FULL_SHARD") {
    auto wrapped = model | wanpar::sharded_params({.group = world});
    return losses([&](const at::Tensor& t) { return wrapped(t); }, wrapped.parameters(), x, y, world);
  }
  auto wrapped = model | wanpar::data_parallel({.group = world,
                                                .mode = wanpar::BatchMode::local,
                                                .find_unused_parameters = true});  // its layers for text
  return losses(wrapped, model->parameters(), x, y, world);
}

}  // namespace

void print_training() {
  fmt::print(
      "\n## 20 AdamW steps over 4 ranks, each with a quarter of the batch: losses against one "
      "rank\n\nLimits: 1e-5 and 1e-9.\n\n"
      "| strategy | float32 | float64 |\n|---|---|---|\n");
  for (std::string strategy : {"FULL_SHARD", "DataParallel"}) {
    std::string cells;
    for (auto dtype : {at::kFloat, at::kDouble}) {
      auto most = worst({4}, [&](Communicator world) {
        auto x = random({8, 7, 48}, dtype), y = random({8, 7, 48}, dtype, 8);
        auto whole = make_model(dtype);
        auto expected = losses(whole, whole->parameters(), x, y, {});
        auto mine = [&](const at::Tensor& t) { return t.narrow(0, 2 * world.rank(), 2); };
        auto actual = losses_over(strategy, make_model(dtype), mine(x), mine(y), world);
        double difference = 0;
        for (size_t i = 0; i < actual.size(); ++i)
          difference = worse(difference, std::abs(actual[i] - expected[i]));
        return difference;
      });
      cells += fmt::format(" {:.1e} |", most);
      check(fmt::format("20 steps with {} in {}", strategy, c10::toString(dtype)), most,
            dtype == at::kFloat ? 1e-5 : 1e-9);
    }
    fmt::print("| {} |{}\n", strategy, cells);
  }
}
