#include <wanpar/extend/conformance/strategy.hpp>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <mutex>
#include <wanpar/extend/conformance/require.hpp>

namespace wanpar::conformance {
namespace {

struct Shape {
  int64_t batch, length;
};
constexpr Shape kOdd{3, 13}, kShort{5, 6};  // neither goes into the ranks; fewer than eight of them

Model make(const Subject& subject, at::ScalarType dtype, bool stacked = false) {
  static std::mutex generator;  // LibTorch's random numbers come from one for all threads
  std::lock_guard lock(generator);
  torch::manual_seed(5);
  return stacked && subject.stacked ? subject.stacked(dtype) : subject.make(dtype);
}

/// What the strategy must say of the subject; empty where it can carry it.
std::string refusal(const Strategy& strategy, const Subject& subject) {
  return strategy.wants_blocks && !subject.stacked ? "the module has no block stack" : "";
}

Tensors inputs(const Subject& subject, Shape shape, at::ScalarType dtype) {
  auto all = subject.inputs(shape.batch, shape.length);
  for (auto& x : all)
    if (x.is_floating_point()) x = x.to(dtype);
  return all;
}

/// What a call and its backward leave behind.
struct Outcome {
  at::Tensor result;
  Gradients parameters;
  Tensors arguments;  // their gradients
};

/// Calls the module and goes back from a loss that weighs every element differently, times `weight`.
Outcome train(Model model, Tensors arguments, double weight,
              const std::function<Gradients()>& take_gradients) {
  Outcome outcome;
  Tensors wanted;
  for (auto& x : arguments)
    if (x.is_floating_point()) wanted.push_back(x = x.detach().requires_grad_());
  outcome.result = model.call(arguments);
  auto scores = at::arange(1, outcome.result.numel() + 1, outcome.result.options()).sin();
  (outcome.result * scores.view(outcome.result.sizes()) * weight).sum().backward();
  outcome.result = outcome.result.detach();
  outcome.parameters = take_gradients();
  for (auto& x : wanted) outcome.arguments.push_back(x.grad());
  return outcome;
}

void require_relative(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                      const std::string& claim) {
  require(actual.defined(), claim + " is there");
  auto size = expected.numel() ? expected.abs().max().item<double>() : 0;
  require_close(actual, expected, tolerance * size + 1e-300, claim);
}

void require_same(const Outcome& actual, const Outcome& expected, double weight, const std::string& where) {
  require_relative(actual.result, expected.result, 1e-9, where + ", result");
  require(actual.parameters.size() == expected.parameters.size(), where + ", as many gradients");
  for (auto& [name, gradient] : expected.parameters)
    require_relative(actual.parameters.at(name), gradient, 1e-9, where + ", gradient of " + name);
  for (size_t i = 0; i < expected.arguments.size(); ++i)
    require_relative(actual.arguments[i], expected.arguments[i] * weight, 1e-9,
                     fmt::format("{}, gradient of argument {}", where, i));
}

/// What the module does where nothing wraps it, for the shapes of the suite.
struct Bare {
  explicit Bare(const Subject& subject) {
    for (auto shape : {kOdd, kShort}) {
      auto exact = make(subject, at::kDouble);
      trained.push_back(train(exact, inputs(subject, shape, at::kDouble), 1, gradients_of(exact)));
      at::NoGradGuard no_grad;
      single.push_back(make(subject, at::kFloat).call(inputs(subject, shape, at::kFloat)));
    }
  }
  std::vector<Outcome> trained;
  Tensors single;  // results in float32
};

/// Worked out once for all strategies, by the first rank of a process that comes here.
const Bare& bare_of(const Subject& subject) {
  static std::mutex mutex;
  static std::map<std::string, Bare> known;
  std::lock_guard lock(mutex);
  return known.try_emplace(subject.name, subject).first->second;
}

void check(const Strategy& strategy, const Subject& subject, const Bare& bare, const Communicator& world) {
  constexpr Shape shapes[] = {kOdd, kShort};
  const std::vector<size_t> calls{0, 0, 1};  // which shape; two of one in a row

  auto wrap = [&](at::ScalarType dtype) {
    return strategy.wrap(make(subject, dtype, strategy.wants_blocks), subject, world);
  };
  auto wrapped = wrap(at::kDouble);
  auto& model = wrapped.model;
  if (auto words = refusal(strategy, subject);
      !words.empty() && (world.size() > 1 || strategy.refuses_alone)) {
    auto refused = [&] { model.call(inputs(subject, kOdd, at::kDouble)); };
    require_error(refused, words);
    at::NoGradGuard no_grad;
    require_error(refused, words);
    world.barrier();  // nobody waits for a transfer that the others did not begin
    return;
  }

  // Where gradients are averaged each rank has a loss of its own, so that one left alone would be seen.
  double weight = wrapped.averages ? 2.0 * (world.rank() + 1) / (world.size() + 1) : 1.0;
  for (auto i : calls) {
    if (!wrapped.take_gradients) break;
    require_same(train(model, inputs(subject, shapes[i], at::kDouble), weight, wrapped.take_gradients),
                 bare.trained[i], weight, fmt::format("{}, training, shape {}", subject.name, i));
  }
  {
    at::NoGradGuard no_grad;
    for (auto i : calls)
      require_relative(model.call(inputs(subject, shapes[i], at::kDouble)), bare.trained[i].result, 1e-9,
                       fmt::format("{}, no_grad, shape {}", subject.name, i));
  }
  auto single = wrap(at::kFloat).model;
  c10::InferenceMode inference;
  for (auto i : {0, 1})
    require_close(single.call(inputs(subject, shapes[i], at::kFloat)), bare.single[i], 1e-5,
                  fmt::format("{}, inference mode, float32, shape {}", subject.name, i));
}

}  // namespace

void check_strategy(const Strategy& strategy, const Communicator& world,
                    const std::vector<Subject>& modules) {
  for (auto& subject : modules) check(strategy, subject, bare_of(subject), world);
}

}  // namespace wanpar::conformance
