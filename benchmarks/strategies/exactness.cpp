#include <fmt/format.h>
#include <torch/utils.h>
#include <wanpar/transport/local.hpp>

#include <map>
#include <mutex>

#include "conformance/strategies.hpp"
#include "limits.hpp"
#include "tables.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace {

/// Differences from one rank: absolute in float32, relative to the greatest element in float64.
struct Apart {
  double single = 0, gradients = 0;
};

Model make(const Subject& subject, at::ScalarType dtype, bool stacked) {
  static std::mutex generator;
  std::lock_guard lock(generator);
  torch::manual_seed(5);
  return stacked && subject.stacked ? subject.stacked(dtype) : subject.make(dtype);
}

std::vector<at::Tensor> inputs(const Subject& subject, at::ScalarType dtype) {
  auto all = subject.inputs(3, 37);
  for (auto& x : all)
    if (x.is_floating_point()) x = x.to(dtype);
  return all;
}

/// The gradients of a loss that weighs every element differently, by parameter and argument.
Gradients gradients(Model model, const Subject& subject, double weight,
                    const std::function<Gradients()>& take) {
  auto arguments = inputs(subject, at::kDouble);
  for (auto& x : arguments)
    if (x.is_floating_point()) x = x.detach().requires_grad_();
  auto result = model.call(arguments);
  auto scores = at::arange(1, result.numel() + 1, result.options()).sin();
  (result * scores.view(result.sizes()) * weight).sum().backward();
  auto all = take();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].is_floating_point()) all[fmt::format("argument {}", i)] = arguments[i].grad() / weight;
  return all;
}

Apart difference(const Strategy& strategy, const Subject& subject, const Communicator& world) {
  Apart apart;
  auto wrap = [&](at::ScalarType dtype) {
    return strategy.wrap(make(subject, dtype, strategy.wants_blocks), subject, world);
  };
  {
    at::NoGradGuard no_grad;
    auto arguments = inputs(subject, at::kFloat);
    auto expected = make(subject, at::kFloat, false).call(arguments);
    apart.single = (wrap(at::kFloat).model.call(arguments) - expected).abs().max().item<double>();
  }
  auto wrapped = wrap(at::kDouble);
  if (!wrapped.take_gradients) return apart;
  double weight = wrapped.averages ? 2.0 * (world.rank() + 1) / (world.size() + 1) : 1.0;
  auto actual = gradients(wrapped.model, subject, weight, wrapped.take_gradients);
  auto bare = make(subject, at::kDouble, false);
  for (auto& [name, expected] : gradients(bare, subject, 1, gradients_of(bare))) {
    auto size = expected.abs().max().item<double>();
    auto difference = (actual.at(name) - expected).abs().max().item<double>();
    if (difference != 0) apart.gradients = worse(apart.gradients, difference / size);
  }
  return apart;
}

}  // namespace

void print_exactness() {
  fmt::print(
      "\n## Against one rank\n\nThe modules of the conformance tests that the strategy can carry, on 2, 3, 4 "
      "and 8 ranks, 37 tokens, a batch of 3.\nA composition is read from the module outwards. Limits: 1e-5 "
      "and 1e-9.\n\n"
      "| strategy | modules | result in float32, greatest difference | gradients in float64, relative |\n"
      "|---|---|---|---|\n");
  auto all = strategies();
  all.insert(all.end(), compositions().begin(), compositions().end());
  for (auto& strategy : all) {
    Apart most;
    std::mutex mutex;
    int carried = 0;
    bool trains = true;
    for (auto& subject : subjects()) {
      wanpar::local::run(4, [&](Communicator world) {
        auto wrapped = strategy.wrap(make(subject, at::kFloat, strategy.wants_blocks), subject, world);
        if (world.rank() > 0) return;
        trains = static_cast<bool>(wrapped.take_gradients);
      });
      if (strategy.wants_blocks && !subject.stacked) continue;
      ++carried;
      for (int ranks : {2, 3, 4, 8})
        wanpar::local::run(ranks, [&](Communicator world) {
          auto apart = difference(strategy, subject, world);
          std::lock_guard lock(mutex);
          most.single = worse(most.single, apart.single);
          most.gradients = worse(most.gradients, apart.gradients);
        });
    }
    auto name = strategy.name;
    for (size_t at = 0; (at = name.find(" | ", at)) != name.npos; at += 4) name.insert(at + 1, "\\");
    fmt::print("| {} | {} | {:.1e} | {} |\n", name, carried, most.single,
               trains ? fmt::format("{:.1e}", most.gradients) : "without");
    check(strategy.name + ", all modules refused", carried == 0, 0);
    check(strategy.name + ", result in float32", most.single, 1e-5);
    check(strategy.name + ", gradients in float64", most.gradients, 1e-9);
  }
}
