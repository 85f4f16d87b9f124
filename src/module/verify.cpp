#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/verify.hpp>

namespace wanpar {
namespace {

struct Result {
  std::string name;
  std::vector<at::Tensor> outputs;
};

/// Records each operator's result, as computed by the inner strategies.
class Observer : public OperatorHandler, public SubstitutionHandler {
 public:
  explicit Observer(std::function<void(Result)> found) : found_(std::move(found)) {}

  Tensors around(const Operator& op, const Next& next) override {
    auto outputs = next(op);
    if (is_apart_) return outputs;
    Result result{op.name, {}};
    bool is_filled = op.name.find("::empty") == op.name.npos && op.name.find("::new_empty") == op.name.npos;
    if (is_filled)  // uninitialised memory is not compared
      for (auto& output : outputs) result.outputs.push_back(unshard(output).detach().clone());
    found_(std::move(result));
    return outputs;
  }

  /// A view or a cast has the values of the bare module. A shard of the batch, or another rank's activation,
  /// does not; nor does anything that follows.
  void on_substitute(const at::Tensor& original, const at::Tensor& replacement) override {
    bool is_cast = replacement.scalar_type() != original.scalar_type();
    is_apart_ |= replacement.sizes() != original.sizes() || (!is_cast && !replacement.is_alias_of(original));
  }

 private:
  std::function<void(Result)> found_;
  bool is_apart_ = false;
};

/// Converts to float64; a complex number becomes two.
at::Tensor in_double(const at::Tensor& x) {
  return (x.is_complex() ? at::view_as_real(x.resolve_conj()) : x).to(at::kDouble);
}

struct Observed {
  at::Tensor result;
  std::vector<at::Tensor> gradients;
};

/// Runs an observed pass, with the gradients of the inputs that require them.
Observed observe(Model model, std::vector<at::Tensor> inputs, const std::function<void(Result)>& found) {
  std::vector<at::Tensor> asking;
  for (auto& x : inputs)
    if (x.defined() && x.requires_grad()) asking.push_back(x = x.detach().requires_grad_());
  Observer observer(found);
  at::Tensor result;
  {
    Scope scope(observer);
    result = model.call(inputs);
  }
  if (asking.empty() || !result.requires_grad()) return {result.detach(), {}};
  const auto numbers = in_double(result);
  const auto weights = at::arange(numbers.numel(), numbers.options().requires_grad(false)).mul_(0.7).cos_();
  const auto loss = (numbers * weights.view(numbers.sizes())).sum();
  return {result.detach(), torch::autograd::grad({loss}, asking, {}, {}, false, /*allow_unused=*/true)};
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double difference(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return kInfinity;
  if (a.numel() == 0) return 0;
  // Equal infinities, as in masks, are no difference.
  auto apart = at::where(in_double(a).eq(in_double(b)), 0.0, in_double(a) - in_double(b)).abs();
  return apart.nan_to_num(kInfinity, kInfinity).max().item<double>();
}

double greatest(const at::Tensor& x) {
  return x.numel() ? in_double(x).abs().nan_to_num(0, 0, 0).max().item<double>() : 0;
}

}  // namespace

Verification verify(Model wrapped, Model bare, const std::vector<at::Tensor>& inputs, double tolerance) {
  // Without gradients, strategies use cached plans, as they would for the user.
  at::Tensor remembered;
  {
    at::NoGradGuard no_grad;
    remembered = wrapped.call(inputs);
  }
  at::AutoGradMode gradients(true);  // with gradients, strategies intercept every operator
  std::vector<Result> expected;
  const auto keep = [&](Result result) { expected.push_back(std::move(result)); };
  const auto before = observe(bare, inputs, [](const Result&) {});
  const auto right = observe(std::move(bare), inputs, keep);
  if (!(difference(before.result, right.result) <= tolerance * std::max(1.0, greatest(right.result))))
    throw UsageError(
        "verify: the bare module gives other results when it is called again with the same inputs, so no "
        "difference says anything; let it draw no random numbers (eval()) and keep nothing between calls");

  Verification found{0, 0, {}};
  size_t next = 0;
  bool together = true;
  auto actual = observe(std::move(wrapped), inputs, [&](const Result& result) {
    together = together && next < expected.size() && expected[next].name == result.name &&
               expected[next].outputs.size() == result.outputs.size();
    if (!together) return;
    auto& outputs = expected[next].outputs;
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto apart = difference(result.outputs[i], outputs[i]);
      if (!found.first && !(apart <= tolerance * std::max(1.0, greatest(outputs[i]))))
        found.first = OperatorDifference{result.name, static_cast<int64_t>(next), apart};
    }
    outputs.clear();
    ++next;
    ++found.operators;
  });
  found.difference = std::max(difference(remembered, right.result), difference(actual.result, right.result));
  for (size_t i = 0; i < right.gradients.size(); ++i) {
    const auto& mine = actual.gradients.at(i);
    const auto& expected_one = right.gradients[i];
    if (mine.defined() != expected_one.defined())
      found.gradient = kInfinity;
    else if (mine.defined())
      found.gradient = std::max(found.gradient, difference(mine, expected_one));
  }
  return found;
}

}  // namespace wanpar
