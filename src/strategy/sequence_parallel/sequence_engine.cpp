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

void SequenceEngine::begin(const std::string& signature) {
  auto known = known_.find(signature);
  pass_ = {.signature = signature, .is_first = known == known_.end()};
  // Gradients of weights are summed where they meet split tokens, so every operator must be seen.
  bool look =
      pass_.is_first || known->second.reaches_over || options_.always_look || at::GradMode::is_enabled();
  if (!look) pass_.known = &known->second;
}

void SequenceEngine::learn() {
  if (std::exchange(pass_.is_first, false)) vote_.go_on("the end");
  if (!pass_.known) known_.insert_or_assign(pass_.signature, pass_.path);
}

/// Groups that are checked learn of it at their next call; of others the ranks are at the next vote.
void SequenceEngine::fail() {
  auto is_checked = [](const Communicator& group) {
    return group.size() == 1 || group.transport()->begins_together();
  };
  bool is_vote_awaited = std::exchange(pass_.is_first, false);
  if (is_vote_awaited && !(is_checked(options_.ulysses) && is_checked(options_.ring))) vote_.refuse();
}

/// An exchange with the other ranks, for which all of them, in a first pass, must have come the same way.
template <class Way, class Exchange>
at::Tensor SequenceEngine::together(const Way& way, const Exchange& exchange) {
  if (!pass_.is_first) return exchange();
  pass_.is_first = false;  // what fails from here on has failed for all
  vote_.go_on(way());
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

void SequenceEngine::check_joined(const std::string& name, const at::Tensor& x) const {
  auto* place = pass_.follow.of(x);
  if (place)
    throw Error(
        fmt::format("SequenceParallel: the result {}{} goes out with its dimension {} split; call "
                    "gather_sequence in the module, "
                    "or name it in .gather",
                    x.sizes(), name.empty() ? "" : " (" + name + ")", place->dim));
}

at::Tensor SequenceEngine::unshard(at::Tensor x) {
  auto* found = pass_.follow.of(x);
  if (!found) return x;
  const auto at = *found;
  auto part = x.detach().unflatten(at.dim, {at.before, at.length, at.after}).contiguous();
  return group_.joined(part, at.dim + 1, at.total).flatten(at.dim, at.dim + 2);
}

void SequenceEngine::on_substitute(const at::Tensor& replacement, const at::Tensor& original) {
  auto* found = pass_.follow.of(original);
  if (!found) return;
  const auto place = *found;
  if (replacement.dim() != original.dim() || replacement.size(place.dim) != place.extent())
    throw Error(
        fmt::format("SequenceParallel: {} has come in the place of {}, whose dimension {} is split; {}",
                    replacement.sizes(), original.sizes(), place.dim, kSequenceRemedy));
  pass_.follow.mark(replacement, place);
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

Tensors SequenceEngine::around(const Operator& op, const Next& next) {
  if (auto call = as_attention(op)) return attention(*call, op, next);
  if (is_fused_attention(op.name) && pass_.follow.touches(op.inputs))
    throw Error(
        fmt::format("SequenceParallel: {} attends over the split tokens inside one fused operator; {} (in "
                    "Python: torch.backends.mha.set_fastpath_enabled(False) before tracing)",
                    op.name, kSequenceRemedy));
  if (group_.is_in_order())
    if (auto split = split_convolution(pass_.follow, op)) return convolution(*split, op, next);
  if (auto split = split_norm(pass_.follow, op)) return norm(*split, op, next);
  pass_.follow.before(op);
  bool sums = at::GradMode::is_enabled() && pass_.follow.touches(op.inputs);
  auto outputs = sums ? next(with_summed_gradients(op)) : next(op);
  pass_.follow.after(op, outputs);
  return outputs;
}

Tensors SequenceEngine::convolution(const SplitConvolution& convolution, const Operator& op,
                                    const Next& next) {
  pass_.path.reaches_over = true;
  const auto [at, left, right] = convolution;
  auto over_ranks = with_summed_gradients(op);
  over_ranks.compute = [&, at = at, left = left, right = right](const Tensors& inputs) {
    auto wide = inputs;
    wide[0] = together([&] { return fmt::format("{} over {}", op.name, description(at)); },
                       [&] { return group_.with_neighbours(inputs[0], at.dim, at.total, left, right); });
    return Tensors{op.compute(wide)[0].narrow(at.dim, left, at.length)};
  };
  auto outputs = next(over_ranks);
  pass_.follow.mark(outputs[0], at);
  return outputs;
}

Tensors SequenceEngine::norm(const SplitNorm& norm, const Operator& op, const Next& next) {
  pass_.path.reaches_over = true;
  auto over_ranks = with_summed_gradients(op);
  over_ranks.compute = [&](const Tensors& inputs) {
    return Tensors{
        together([&] { return fmt::format("{} over {}", op.name, description(norm.place)); },
                 [&] { return normalized(norm, inputs, [&](at::Tensor x) { return group_.summed(x); }); })};
  };
  auto outputs = next(over_ranks);
  pass_.follow.mark(outputs[0], norm.place);
  return outputs;
}

/// A weight, or any other tensor that every rank holds whole, meets this rank's tokens only. Its gradient is
/// the sum over the ranks, and autograd is told so where the two meet.
Operator SequenceEngine::with_summed_gradients(Operator op) const {
  if (!at::GradMode::is_enabled() || !pass_.follow.touches(op.inputs)) return op;
  for (auto& x : op.inputs) {
    if (!x.requires_grad() || pass_.follow.of(x)) continue;
    if (&x == &op.inputs.front() && op.name.ends_with("_"))
      throw Error(
          fmt::format("SequenceParallel: {} writes split tokens into a tensor that is not split and asks for "
                      "gradients; use the operator that makes a new tensor",
                      op.name));
    x = group_.with_summed_gradient(x);
  }
  return op;
}

/// What this attention is: told by where its inputs stem from, or as in the pass that is known.
Met SequenceEngine::met_by(const Attention& call, const Operator& op) const {
  if (!pass_.known) return meet(pass_.follow, op.inputs);
  auto n = pass_.path.attentions.size();
  auto same = n < pass_.known->attentions.size() && pass_.known->attentions[n].query == call.query.sizes() &&
              pass_.known->attentions[n].key == call.key.sizes();
  if (!same) refuse_other_path();
  return pass_.known->attentions[n];
}

Tensors SequenceEngine::attention(const Attention& call, const Operator& op, const Next& next) {
  if (is_in_a_backward())
    throw Error(
        "SequenceParallel: an attention within a backward, by a function of the module's own; wrap the "
        "module in activation_checkpointing() instead");
  const auto met = met_by(call, op);
  const auto n = pass_.path.attentions.size();
  pass_.path.attentions.push_back(met);
  auto over_ranks = with_summed_gradients(op);
  over_ranks.compute = [&](const Tensors& inputs) {
    auto given = call.on(inputs);
    if (auto& rows = met.rows) return Tensors{attention_of_rows(*rows, group_.mine(rows->total), given)};
    if (!met.over) return Tensors{local_attention(given)};
    check_split_attention(given, met.over->total);
    return Tensors{
        together([&] { return fmt::format("attention {} over {}", n, description(*met.over)); },
                 [&] { return split_attention(options_, group_.layout(met.over->total), given); })};
  };
  auto outputs = next(over_ranks);
  if (auto* place = pass_.follow.of(op.inputs[0])) pass_.follow.mark(outputs[0], *place);
  return outputs;
}

}  // namespace wanpar
