#include "strategy/data_parallel/batch_trace.hpp"

#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>

#include "strategy/data_parallel/samplewise.hpp"

namespace wanpar {

BatchTrace::BatchTrace() : backward_(torch::autograd::get_current_graph_task_id()) {}

void BatchTrace::mark_batch(const at::Tensor& x) {
  here_ = x.size(0);
  follow_.mark_without_storage(x, {.split = 0, .length = here_, .total = here_, .dim = 0});
}

BatchPlacement BatchTrace::of(const at::Tensor& x) const {
  if (auto why = why_lost(x); !why.empty()) return {.lost = why};
  auto* place = follow_.of(x);
  if (!place) return {};
  if (place->before != 1)
    return {.lost = fmt::format("dimension {} of {} holds the samples merged behind another dimension",
                                place->dim, x.sizes())};
  return {.dim = place->dim, .each = place->after};
}

std::string BatchTrace::why_lost(const at::Tensor& x) const {
  if (!x.defined()) return {};
  auto found = lost_.find(x.unsafeGetTensorImpl());
  if (found != lost_.end() && !found->second.tensor.expired()) return found->second.why;
  if (follow_.is_hidden(x))
    return fmt::format("{} lies in memory that holds samples, and was made out of sight", x.sizes());
  return {};
}

std::string BatchTrace::kept_beside(const Tensors& results) const {
  auto is_result = [&](const at::TensorImpl* impl) {
    return std::any_of(results.begin(), results.end(),
                       [&](auto& x) { return x.unsafeGetTensorImpl() == impl; });
  };
  for (auto& [impl, lost] : lost_) {
    if (is_result(impl)) continue;
    if (auto alive = lost.tensor.lock(); alive && at::Tensor(std::move(alive)).requires_grad())
      return lost.why;
  }
  return {};
}

bool BatchTrace::is_even(const at::Tensor& x) const {
  auto found = even_.find(x.unsafeGetTensorImpl());
  return found != even_.end() && !found->second.expired();
}

Tensors BatchTrace::around(const Operator& op, const Next& next) {
  // Gradients that the module computes itself in forward have the placement of their tensors.
  if (torch::autograd::get_current_graph_task_id() != backward_) return next(op);
  auto& facts = operators_.of(op);
  for (auto& x : op.inputs)
    if (auto why = why_lost(x); !why.empty()) return lost(next(op), why);
  return follow_.touches(op.inputs) ? traced(op, facts, next) : on_others(op, facts, next);
}

Tensors BatchTrace::traced(const Operator& op, const OperatorFacts& facts, const Next& next) {
  at::DimVector sizes(op.inputs[0].sizes());
  Step before{follow_, op, sizes, {}};
  if (before.tensor(0).defined()) before.sizes = at::DimVector(before.tensor(0).sizes());
  auto known = samplewise(before);
  if (!known && facts.math) known = math(before, facts.math);
  if (known) return marked(op, next(op), *known);
  if (facts.view && follow_.of(op.inputs[0])) {
    auto outputs = next(op);
    Step behind{follow_, op, before.sizes, outputs};
    return marked(op, outputs, facts.view(behind));
  }
  if (facts.fills) {  // like new_zeros, which uses only the dtype of its input
    auto outputs = next(op);
    for (auto& x : outputs) even_.insert_or_assign(x.unsafeGetTensorImpl(), Weak(x.getIntrusivePtr()));
    return outputs;
  }
  auto outputs = next(facts.is_composite ? opened(op) : op);
  Step behind{follow_, op, before.sizes, outputs};
  if (auto dims = samplewise_dims(behind)) {
    auto place = *behind.place(0);
    for (size_t i = 0; i < outputs.size(); ++i)
      if (place.dim = (*dims)[i]; place.dim >= 0) follow_.mark(outputs[i], place);
    return outputs;
  }
  Tensors unknown;  // of a composite operator: outputs that no inner operator has made
  for (auto& x : outputs)
    if (!facts.is_composite || !(follow_.of(x) || !why_lost(x).empty())) unknown.push_back(x);
  lost(unknown, op.name + ", which is not known to keep samples apart");
  return outputs;
}

Verdict BatchTrace::math(Step& step, Rule rule) const {
  auto verdict = rule(step);
  if (!verdict.is_local()) return verdict;
  if (!step.redistributed.empty()) return {{}, "meets tensors whose samples lie differently"};
  for (auto& cut : step.slices)
    if (!is_even(step.op.inputs[cut.input]))
      return {{},
              fmt::format("meets a tensor {} with a row for each sample that is here, which does not stem "
                          "from the batch",
                          step.op.inputs[cut.input].sizes())};
  return verdict;
}

/// Equal for all samples: constants, random draws, and whatever is computed from such tensors only.
Tensors BatchTrace::on_others(const Operator& op, const OperatorFacts& facts, const Next& next) {
  auto all_even = [&] {
    return std::all_of(op.inputs.begin(), op.inputs.end(),
                       [&](auto& x) { return !x.defined() || is_even(x); });
  };
  // expand and similar operators are constant along the dimensions that they create, and only there.
  auto has_rows = [&](const at::Tensor& x) {
    return x.defined() && std::count(x.sizes().begin(), x.sizes().end(), here_) > 0;
  };
  bool makes_rows =
      facts.fills && (!facts.view || std::none_of(op.inputs.begin(), op.inputs.end(), has_rows));
  bool is_product = op.name == "aten::linear" || op.name == "aten::matmul" || op.name == "aten::mm";
  bool keeps_rows = !op.inputs.empty() && (((facts.view || facts.math == &elementwise) && all_even()) ||
                                           (is_product && is_even(op.inputs[0])));
  bool draws_rows = facts.is_random && all_even();
  auto outputs = next(op);
  for (auto& x : outputs) {
    if (!x.defined()) continue;
    if (makes_rows || keeps_rows || draws_rows)
      even_.insert_or_assign(x.unsafeGetTensorImpl(), Weak(x.getIntrusivePtr()));
    else
      even_.erase(x.unsafeGetTensorImpl());
  }
  return outputs;
}

Tensors BatchTrace::marked(const Operator& op, Tensors outputs, const Verdict& verdict) {
  if (!verdict.is_local()) return lost(std::move(outputs), fmt::format("{} {}", op.name, verdict.mixes));
  if (!verdict.place) return outputs;
  auto& place = *verdict.place;
  for (auto& x : outputs) {
    if (!x.defined()) continue;
    if (place.dim >= x.dim() || x.size(place.dim) != place.extent())
      return lost(outputs, fmt::format("{}, which gives {}", op.name, x.sizes()));
    follow_.mark(x, place);
  }
  return outputs;
}

Tensors BatchTrace::lost(Tensors outputs, const std::string& why) {
  for (auto& x : outputs) {
    if (!x.defined()) continue;
    follow_.mark(x, {.split = 0, .length = here_, .total = here_, .dim = 0});  // its storage holds samples
    lost_.insert_or_assign(x.unsafeGetTensorImpl(), Lost{Weak(x.getIntrusivePtr()), why});
  }
  return outputs;
}

void BatchTrace::on_substitute(const at::Tensor& original, const at::Tensor& replacement) {
  if (auto why = why_lost(original); !why.empty()) {
    lost({replacement}, why);
    return;
  }
  auto* found = follow_.of(original);
  if (!found) return;
  auto place = *found;
  if (place.dim >= replacement.dim() ||
      (place.before * place.after > 1 && replacement.size(place.dim) != place.extent())) {
    lost({replacement}, fmt::format("{} has come in the place of {}", replacement.sizes(), original.sizes()));
    return;
  }
  if (place.before * place.after == 1) place.length = place.total = replacement.size(place.dim);
  follow_.mark(replacement, place);
}

}  // namespace wanpar
