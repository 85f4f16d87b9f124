#include "strategy/sequence_parallel/sequence_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "module/linear_map.hpp"
#include "strategy/sequence_parallel/split_attention.hpp"

namespace wanpar {
namespace {

const std::string kAttention = "aten::scaled_dot_product_attention";

/// What all ranks know alike of a place.
std::string description(const SplitPlace& at) {
  return fmt::format("split {} of {} tokens along dimension {}, {} before and {} behind", at.split, at.total,
                     at.dim, at.before, at.after);
}

[[noreturn]] void refuse_other_path() {
  throw Error(
      "SequenceParallel: the module took another path than in its first pass with arguments of these shapes; "
      "set .always_look");
}

}  // namespace

/// A pass through a part of the module, in the place of the one at hand.
class SequenceEngine::Again {
 public:
  Again(std::shared_ptr<SequenceEngine> engine, Pass again)
      : engine_(std::move(engine)),
        others_(std::exchange(engine_->pass_, std::move(again))),
        scope_(std::make_unique<Scope>(*engine_)) {}
  ~Again() {
    scope_.reset();
    engine_->pass_ = std::move(others_);
  }
  Again(const Again&) = delete;
  Again& operator=(const Again&) = delete;

 private:
  std::shared_ptr<SequenceEngine> engine_;
  Pass others_;
  std::unique_ptr<Scope> scope_;
};

void SequenceEngine::begin(const detail::CallShape& shape) {
  auto known = known_.find(shape.numbers);
  pass_ = {.shape = shape.numbers, .is_first = known == known_.end()};
  // Gradients of weights are summed where they meet split tokens, so every operator must be seen.
  bool look = pass_.is_first || known->second.reaches_over || !shape.is_known || options_.always_look ||
              at::GradMode::is_enabled();
  if (!look) pass_.known = &known->second;
}

void SequenceEngine::learn() {
  if (std::exchange(pass_.is_first, false)) consensus_.go_on("the end");
  if (!pass_.known) known_.insert_or_assign(pass_.shape, pass_.path);
}

void SequenceEngine::fail() {
  if (std::exchange(pass_.is_first, false)) consensus_.refuse();
}

/// An exchange with the other ranks, for which all of them, in a first pass, must have come the same way.
template <class Way, class Exchange>
at::Tensor SequenceEngine::together(const Way& way, const Exchange& exchange) {
  if (!pass_.is_first) return exchange();
  pass_.is_first = false;  // what fails from here on has failed for all
  consensus_.go_on(way());
  auto result = exchange();
  pass_.is_first = true;
  return result;
}

void SequenceEngine::check_region() const {
  if (pass_.path.splits.empty())
    throw Error(
        "SequenceParallel: nothing was split; name the token arguments in .split, or call split_sequence in "
        "the module");
  bool attended =
      pass_.path.reaches_over || std::any_of(pass_.path.attentions.begin(), pass_.path.attentions.end(),
                                             [](auto& met) { return met.over; });
  if (!attended)
    throw Error(fmt::format(
        "SequenceParallel: no attention over the split tokens was met (nor a convolution or a norm), "
        "so the result would be that of {} separate sequences; {}",
        size(), kSequenceRemedy));
}

/// Which of the splits of this pass one of `total` tokens is; a new one where there was none of that length.
int SequenceEngine::split_of(int64_t total) {
  auto& splits = pass_.path.splits;
  auto found = std::find(splits.begin(), splits.end(), total);
  if (found == splits.end()) found = splits.insert(found, total);
  int split = static_cast<int>(found - splits.begin());
  if (pass_.known &&
      (split >= static_cast<int>(pass_.known->splits.size()) || pass_.known->splits[split] != total))
    refuse_other_path();
  return split;
}

at::Tensor SequenceEngine::cut(const at::Tensor& x, int64_t dim) {
  if (dim < -x.dim() || dim >= x.dim())
    throw Error(fmt::format("SequenceParallel: dimension {} of a tensor with {} dimensions cannot be split",
                            dim, x.dim()));
  dim = dim < 0 ? dim + x.dim() : dim;
  auto total = x.size(dim);
  int split = split_of(total);
  auto part = group_.share(x, dim);
  // What all of x is would otherwise be taken for split, where one rank has it all.
  if (part.is_same(x)) part = x.alias();
  pass_.follow.mark(part, {.split = split,
                           .length = length(group_.mine(total)),
                           .total = total,
                           .dim = dim,
                           .single = group_.layout(total).has_single()});
  return part;
}

/// Where the tokens of something that is to be gathered lie.
SplitPlace SequenceEngine::gathered_place(const at::Tensor& x) {
  if (pass_.known) {
    auto n = pass_.path.gathers.size();
    if (n >= pass_.known->gathers.size()) refuse_other_path();
    pass_.path.gathers.push_back(pass_.known->gathers[n]);
  } else {
    auto* place = pass_.follow.of(x);
    if (!place)
      throw Error(
          fmt::format("SequenceParallel: what is to be gathered, {}, does not stem from the split tokens; "
                      "gather what the module makes of them, by gather_sequence where that is not its result",
                      x.sizes()));
    pass_.path.gathers.push_back(*place);
  }
  return pass_.path.gathers.back();
}

at::Tensor SequenceEngine::gather(const at::Tensor& x, std::optional<int64_t> dim) {
  check_region();
  auto at = gathered_place(x);
  if (dim && *dim < 0) *dim += x.dim();
  if (at.before * at.after != 1 || (dim && *dim != at.dim))
    throw Error(
        fmt::format("SequenceParallel: the tokens of the result lie along dimension {}{}, not along {}; name "
                    "their dimension in .gather or gather_sequence",
                    at.dim, at.before * at.after != 1 ? ", merged with others" : "", dim.value_or(at.dim)));
  return linear_map(
      x,
      [=, this](const at::Tensor& part) {
        return together([&] { return "gathering " + description(at); },
                        [&] { return group_.joined(part, at.dim, at.total); });
      },
      [dim = at.dim, tokens = group_.mine(at.total)](const at::Tensor& gradient) {
        return take(gradient, dim, tokens).contiguous();
      });
}

at::Tensor SequenceEngine::split_sequence(at::Tensor x, int64_t dim,
                                          std::initializer_list<Companion> companions) {
  for (auto& companion : companions) {
    if (companion.tensor.size(companion.dim) != x.size(dim))
      throw Error(fmt::format(
          "split_sequence: a companion has {} elements along its dimension {}, but there are {} tokens",
          companion.tensor.size(companion.dim), companion.dim, x.size(dim)));
    companion.tensor = cut(companion.tensor, companion.dim);
  }
  return cut(x, dim);
}

at::Tensor SequenceEngine::whole(at::Tensor x) {
  auto* found = pass_.follow.of(x);
  if (!found) return x;
  const auto at = *found;
  auto part = x.detach().unflatten(at.dim, {at.before, at.length, at.after}).contiguous();
  return group_.joined(part, at.dim + 1, at.total).flatten(at.dim, at.dim + 2);
}

void SequenceEngine::goes_on(const at::Tensor& x, const at::Tensor& like) {
  auto* found = pass_.follow.of(like);
  if (!found) return;
  const auto place = *found;
  if (x.dim() != like.dim() || x.size(place.dim) != place.extent())
    throw Error(
        fmt::format("SequenceParallel: {} has come in the place of {}, whose dimension {} is split; {}",
                    x.sizes(), like.sizes(), place.dim, kSequenceRemedy));
  pass_.follow.mark(x, place);
}

Reentry SequenceEngine::reentry(std::span<const at::Tensor> inputs) {
  std::vector<std::optional<SplitPlace>> places;
  for (auto& x : inputs) {
    auto* place = x.defined() ? pass_.follow.of(x) : nullptr;
    places.push_back(place ? std::optional(*place) : std::nullopt);
  }
  return [self = shared_from_this(), path = pass_.path, places](std::span<const at::Tensor> inputs) {
    Pass again{.path = path};
    for (size_t i = 0; i < places.size(); ++i)
      if (places[i]) again.follow.mark(inputs[i], *places[i]);
    return std::make_shared<Again>(self, std::move(again));
  };
}

void SequenceEngine::before(const Operator& op) {
  if (is_fused_attention(op.name) && pass_.follow.touches(op.inputs))
    throw Error(
        fmt::format("SequenceParallel: {} attends over the split tokens inside one fused operator; {} (in "
                    "Python: torch.backends.mha.set_fastpath_enabled(False) before tracing)",
                    op.name, kSequenceRemedy));
  if (group_.is_in_order()) pass_.convolution = split_convolution(pass_.follow, op);
  pass_.norm = split_norm(pass_.follow, op);
  if (op.name == kAttention)
    pass_.met = meet(pass_.follow, op.inputs);
  else if (!pass_.convolution && !pass_.norm)
    pass_.follow.before(op);
  sum_gradients_of_whole(op);
}

std::optional<at::Tensor> SequenceEngine::instead(const Operator& op, const NextOperator& next) {
  if (!pass_.convolution && !pass_.norm) return {};
  pass_.path.reaches_over = true;
  auto way = [&](const SplitPlace& at) {
    return [&] { return fmt::format("{} over {}", op.name, description(at)); };
  };
  if (pass_.convolution) {
    const auto [at, left, right] = *pass_.convolution;
    std::vector<at::Tensor> wide(op.inputs.begin(), op.inputs.end());
    wide[0] = together(way(at),
                       [&] { return group_.with_neighbours(op.inputs[0], at.dim, at.total, left, right); });
    return next(wide).narrow(at.dim, left, at.length);
  }
  return together(way(pass_.norm->place), [&] {
    return normalized(*pass_.norm, op.inputs, [&](at::Tensor x) { return group_.summed(x); });
  });
}

void SequenceEngine::after(const Operator& op, std::span<const at::Tensor> outputs) {
  if (op.name != kAttention && !pass_.convolution && !pass_.norm) return pass_.follow.after(op, outputs);
  if (auto* place = pass_.follow.of(op.inputs[0])) pass_.follow.mark(outputs[0], *place);
}

/// A weight, or any other tensor that every rank holds whole, meets this rank's tokens only. Its gradient is
/// the sum over the ranks, and autograd is told so where the two meet.
void SequenceEngine::sum_gradients_of_whole(const Operator& op) const {
  if (!at::GradMode::is_enabled() || !pass_.follow.touches(op.inputs)) return;
  for (auto& x : op.inputs) {
    if (!x.requires_grad() || pass_.follow.of(x)) continue;
    if (&x == &op.inputs.front() && op.name.ends_with("_"))
      throw Error(
          fmt::format("SequenceParallel: {} writes split tokens into a tensor that is not split and asks for "
                      "gradients; use the operator that makes a new tensor",
                      op.name));
    x = group_.with_summed_gradient(x);
  }
}

at::Tensor SequenceEngine::attention(const Attention& call, const NextAttention& next) {
  if (is_in_a_backward())
    throw Error(
        "SequenceParallel: an attention within a backward, by a function of the module's own; wrap the "
        "module in activation_checkpointing() instead");
  auto n = pass_.path.attentions.size();
  if (pass_.known) {
    auto same = n < pass_.known->attentions.size() &&
                pass_.known->attentions[n].query == call.query.sizes() &&
                pass_.known->attentions[n].key == call.key.sizes();
    if (!same) refuse_other_path();
    pass_.met = pass_.known->attentions[n];
  }
  pass_.path.attentions.push_back(*pass_.met);
  if (auto& over = pass_.met->over) {
    check_split_attention(call, over->total);
    return together([&] { return fmt::format("attention {} over {}", n, description(*over)); },
                    [&] { return split_attention(options_, group_.layout(over->total), call, next); });
  }
  if (auto& rows = pass_.met->rows) return attention_of_rows(*rows, group_.mine(rows->total), call, next);
  return local_attention(call, next);
}

}  // namespace wanpar
