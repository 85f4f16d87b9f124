// The way of an operator: on this rank's tokens, with an exchange, or on every rank alike.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"
#include "core/sentence.hpp"
#include "module/attention_parts.hpp"
#include "strategy/sequence_parallel/sequence_engine.hpp"
#include "strategy/sequence_parallel/split_attention.hpp"

namespace wanpar {

/// Within an operator that is made of others.
class SequenceEngine::Inside {
 public:
  explicit Inside(int& depth) : depth_(depth) { ++depth_; }
  ~Inside() { --depth_; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  int& depth_;
};

void SequenceEngine::refuse(const Operator& op, const std::string& reason) const {
  auto split = std::find_if(op.inputs.begin(), op.inputs.end(), [&](auto& x) { return pass_.follow.of(x); });
  auto where = split == op.inputs.end() ? std::string()
                                        : fmt::format(" (dimension {} of {} is split)",
                                                      pass_.follow.of(*split)->dim, split->sizes());
  throw Error(fmt::format("SequenceParallel: {} {}{}", op.name, reason, where));
}

Tensors SequenceEngine::around(const Operator& op, const Next& next) {
  if (is_in_a_backward()) {
    if (!pass_.splits.empty() && as_attention(op))
      throw Error(
          "SequenceParallel: an attention within a backward, by a function of the module's own; wrap the "
          "module in activation_checkpointing() instead");
    return next(op);
  }
  if (pass_.known) {
    auto call = as_attention(op);
    return call ? known_attention(*call, op, next) : next(op);
  }
  if (!pass_.has_cut) return next(op);  // nothing is split yet
  try {
    return any(op, next);
  } catch (const Error&) {
    if (!pass_.refusal) pass_.refusal = std::current_exception();
    throw;
  }
}

Tensors SequenceEngine::any(const Operator& op, const Next& next) {
  auto& facts = operators_.of(op);
  if (facts.is_random && draws(op)) check_draw(op);
  if (pass_.splits.empty()) return next(op);  // every rank has all of it
  if (pass_.is_first) pass_.consensus.called(facts.hash);
  pass_.is_composed |= handlers().size() > 1;
  if (pass_.depth == 0)
    pass_.path.operators = static_cast<int64_t>(hashed_with(pass_.path.operators, facts.hash));
  check_memory(op, facts);
  if (pass_.promises.touch(op.inputs)) return on_promised(op, facts, next);
  return dispatched(op, facts, next);
}

Tensors SequenceEngine::dispatched(const Operator& op, const OperatorFacts& facts, const Next& next) {
  if (!pass_.follow.touches(op.inputs)) return on_whole(op, facts, next);
  return on_split(op, facts, next);
}

void SequenceEngine::check_memory(const Operator& op, const OperatorFacts& facts) {
  for (auto& x : op.inputs)
    if (pass_.follow.is_hidden(x))
      throw Error(fmt::format(
          "SequenceParallel: {} meets a tensor {} over memory that holds split tokens, which was made out of "
          "sight (x.data(), a view from before they were written); make it by an operator, behind the write",
          op.name, x.sizes()));
  for (auto& x : op.inputs)
    if (facts.kind != OperatorKind::product && pass_.follow.of(x) && pass_.follow.is_unwritten(x) &&
        !writes_to(facts, op, x))
      throw Error(
          fmt::format("SequenceParallel: {} reads memory {} made for split tokens (torch::empty and its "
                      "kin), into which no "
                      "operator has written; fill it by operators, not by a pointer or in another thread",
                      op.name, x.sizes()));
  for (auto& x : written_by(facts, op)) {
    pass_.follow.mark_written(x);
    if (pass_.follow.has_copies(x))
      throw Error(fmt::format(
          "SequenceParallel: {} writes to split tokens of which the module holds a part that is a copy here; "
          "clone that part before, or make a new tensor",
          op.name));
    if (pass_.follow.is_copy_of_view(x))
      throw Error(fmt::format(
          "SequenceParallel: {} writes into a part of split tokens, of which this is a copy here; write to "
          "all of them (at::where, index_put), or make a new tensor of the parts",
          op.name));
    for (auto& given : pass_.given)
      if (x.has_storage() && x.is_alias_of(given.part)) given.is_written = pass_.path.reaches_over = true;
  }
}

/// The operator as split tokens meet what is whole: that every rank has it alike is seen in a first pass,
/// what has one element for each token is cut to this rank's, and what has not has its gradients summed. The
/// first two are done where the operator computes: another strategy may bring parameters until then.
Operator SequenceEngine::meeting_whole(Operator op, const std::vector<CutInput>& cuts) {
  std::vector<size_t> noted;
  auto& facts = operators_.of(op);
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    auto& x = op.inputs[i];
    if (!x.defined() || pass_.follow.of(x)) continue;
    if (pass_.is_first && !writes_to(facts, op, x)) noted.push_back(i);
    bool is_cut = std::any_of(cuts.begin(), cuts.end(), [&](auto& cut) { return cut.input == i; });
    if (!is_cut) x = with_summed_gradient(x);
  }
  if (noted.empty() && cuts.empty()) return op;
  op.compute = [this, noted, cuts, name = op.name, compute = op.compute](const Tensors& inputs) {
    for (auto i : noted) pass_.consensus.note(name, inputs[i]);
    auto mine = inputs;
    for (auto& cut : cuts) mine[cut.input] = group_.share(inputs[cut.input], cut.dim, layout_of(cut.like));
    return compute(mine);
  };
  return op;
}

/// Numbers that are to be alike on all ranks, or, where they may, to follow the shares.
void SequenceEngine::note_numbers(const Operator& op, const OperatorFacts& facts) {
  if (!pass_.is_first) return;
  for (auto& number : numbers_of(facts, op))
    pass_.consensus.note(op, number, facts.is_extent[number.argument]);
}

/// Operators that need something of other ranks' tokens; none where this one does not, or needs them all.
std::optional<Tensors> SequenceEngine::exchanging(const Operator& op, const OperatorFacts& facts,
                                                  const Next& next) {
  if (facts.kind == OperatorKind::convolution || facts.kind == OperatorKind::norm ||
      facts.kind == OperatorKind::reduction)
    note_numbers(op, facts);
  switch (facts.kind) {
    case OperatorKind::attention:
      return attention(*as_attention(op), op, next);
    case OperatorKind::convolution:
      return convolution(op, next);
    case OperatorKind::norm:
      return norm(op, next);
    case OperatorKind::cat:
      return joined(op, next);
    case OperatorKind::pad:
      return padded(op, facts, next);
    case OperatorKind::part:
      return part(op, facts, next);
    case OperatorKind::reduction:
      return reduced(op, next);
    case OperatorKind::product:
      return promised_scores(op);
    case OperatorKind::any:
      return {};
  }
  return {};
}

Tensors SequenceEngine::on_split(const Operator& op, const OperatorFacts& facts, const Next& next) {
  if (auto result = exchanging(op, facts, next)) return *result;
  if (facts.math) {
    auto arguments = as_on_one_rank(op, facts, false);
    const auto changed = arguments ? std::optional(with_arguments(op, std::move(*arguments))) : std::nullopt;
    const auto& here = changed ? *changed : op;
    Step step{pass_.follow, here, at::DimVector(op.inputs[0].sizes()), {}};
    if (step.tensor(0).defined()) step.sizes = at::DimVector(step.tensor(0).sizes());
    auto verdict = facts.math(step);
    auto is_written = [&](auto& moved) { return writes_to(facts, op, op.inputs[moved.input]); };
    bool is_lost = std::any_of(step.cuts.begin(), step.cuts.end(), is_written) ||
                   std::any_of(step.moves.begin(), step.moves.end(), is_written);
    if (!verdict.is_local() || is_lost) return unsharded(op, facts, next);
    return marked(op, locally(here, step, next), verdict.place);
  }
  if (facts.view && pass_.follow.of(op.inputs[0])) {
    if (auto result = viewed(op, facts, next)) return *result;
    return unsharded(op, facts, next);
  }
  if (facts.is_composite && is_of_one_split(op))
    if (auto result = by_its_operators(op, next)) return *result;
  return unsharded(op, facts, next);
}

/// Whether split inputs lie alike over the ranks, so that what an operator finds of their sizes is alike,
/// too.
bool SequenceEngine::is_of_one_split(const Operator& op) const {
  const SplitPlace* first = nullptr;
  for (auto& x : op.inputs) {
    auto* place = pass_.follow.of(x);
    if (!place) continue;
    if (first && first->split != place->split) return false;
    first = place;
  }
  return true;
}

/// One of LibTorch's that is made of others, each of which is met for itself. Some have a kernel of their own
/// as well: what that writes no operator has.
std::optional<Tensors> SequenceEngine::by_its_operators(const Operator& op, const Next& next) {
  const bool was_first = pass_.is_first;
  const Inside inside(pass_.depth);
  try {
    auto outputs = next(opened(op));
    bool is_written = std::none_of(outputs.begin(), outputs.end(),
                                   [&](auto& output) { return pass_.follow.is_unwritten(output); });
    if (is_written) return outputs;
  } catch (const c10::Error&) {  // not with the tokens that are here; maybe with all
    pass_.is_first = was_first;
  }
  return {};
}

/// Random numbers that every rank draws for all tokens are the same where ranks have generators of their own,
/// seeded alike; those of split tokens never are.
void SequenceEngine::check_draw(const Operator& op) const {
  if (pass_.follow.touches(op.inputs))
    refuse(
        op,
        "draws other random numbers on every rank than one rank would; call eval(), or set its dropout to 0");
  if (is_in_one_process_)
    refuse(op,
           "draws random numbers, and ranks that are threads share one generator; give them as an argument, "
           "call eval(), or start a process a rank");
}

/// Where it moves dimensions about without a look at the tokens.
std::optional<Tensors> SequenceEngine::viewed(const Operator& op, const OperatorFacts& facts,
                                              const Next& next) {
  note_numbers(op, facts);
  Step step{pass_.follow, op, at::DimVector(op.inputs[0].sizes()), {}};
  Tensors outputs;
  try {
    auto result = op.inputs[0].numel() == 0 ? settled(op, next) : std::nullopt;
    outputs = result ? std::move(*result) : next(op);
  } catch (const c10::Error&) {
    return {};  // not with the tokens that are here; maybe with all
  }
  step.outputs = outputs;
  auto verdict = facts.view(step);
  if (!verdict.is_local()) return {};
  if (facts.is_empty) pass_.follow.mark_unwritten(outputs[0]);
  return marked(op, std::move(outputs), verdict.place);
}

/// LibTorch's own errors, with how many tokens are here. Within an operator that is made of others they may
/// yet be mended.
Tensors SequenceEngine::told(const Operator& op, const std::function<Tensors()>& run) const {
  try {
    return run();
  } catch (const c10::Error& error) {
    if (pass_.depth > 0) throw;
    auto split =
        std::find_if(op.inputs.begin(), op.inputs.end(), [&](auto& x) { return pass_.follow.of(x); });
    auto* place = pass_.follow.of(*split);
    throw Error(fmt::format("SequenceParallel: {}: {} (this rank holds {} of {} tokens)", op.name,
                            first_line(error.what_without_backtrace()), place->length, place->total));
  }
}

Tensors SequenceEngine::marked(const Operator& op, Tensors outputs, const std::optional<SplitPlace>& place) {
  if (!place) return outputs;
  for (auto& output : outputs) {
    if (place->dim >= output.dim() || output.size(place->dim) != place->extent())
      refuse(op,
             fmt::format("gives {}, which does not hold the split dimension {}", output.sizes(), place->dim));
    // A weight that is seen as many times as there are tokens (expand_as) is whole still.
    bool is_of_whole = std::any_of(op.inputs.begin(), op.inputs.end(), [&](auto& x) {
      return x.defined() && x.has_storage() && output.has_storage() && !pass_.follow.of(x) &&
             x.is_alias_of(output);
    });
    if (is_of_whole)
      pass_.follow.mark_view_of_whole(output, *place);
    else
      pass_.follow.mark(output, *place);
  }
  return outputs;
}

/// On this rank's tokens, and its part of whole tensors that have one element for each token.
Tensors SequenceEngine::locally(const Operator& op, const Step& step, const Next& next) {
  bool is_plain = !pass_.is_first && !pass_.has_gradients && step.cuts.empty() && step.moves.empty();
  if (is_plain) return told(op, [&] { return next(op); });
  auto here = op;
  for (auto& move : step.moves) {
    pass_.path.reaches_over = true;
    const auto place = *pass_.follow.of(op.inputs[move.input]);
    here.inputs[move.input] = share(unsplit(op.inputs[move.input], place), move.like.dim, move.like);
  }
  if (!step.cuts.empty()) pass_.path.reaches_over = true;
  return told(op, [&] { return next(meeting_whole(std::move(here), step.cuts)); });
}

std::optional<Tensors> SequenceEngine::convolution(const Operator& op, const Next& next) {
  const auto split = split_convolution(pass_.follow, op);
  if (!split || !layout_of(split->place).is_in_order()) return {};
  const auto& c = *split;
  pass_.path.reaches_over = true;
  const auto layout = layout_of(c.place);
  const auto shares = convolved_shares(c, layout);
  const auto& mine = shares.of_rank[group_.rank()];
  auto over_ranks = op;
  over_ranks.compute = [&](const Tensors& inputs) {
    auto wide = inputs;
    auto all = together(
        [&] { return fmt::format("{} over {}", op.name, description(c.place)); },
        [&] { return group_.with_neighbours(inputs[0], c.place.dim, layout, shares.left, shares.right); });
    wide[0] = all.narrow(c.place.dim, mine.skipped, mine.needed);
    return Tensors{without_padding(op, c)(wide)};
  };
  auto outputs = next(meeting_whole(over_ranks));
  pass_.follow.mark(outputs[0], place_in(layout.with_lengths(shares.lengths), c.place.dim));
  return outputs;
}

std::optional<Tensors> SequenceEngine::norm(const Operator& op, const Next& next) {
  const auto split = split_norm(pass_.follow, op);
  if (!split) return {};
  const auto& norm = *split;
  pass_.path.reaches_over = true;
  auto over_ranks = op;
  over_ranks.compute = [&](const Tensors& inputs) {
    return Tensors{
        together([&] { return fmt::format("{} over {}", op.name, description(norm.place)); },
                 [&] { return normalized(norm, inputs, [&](at::Tensor x) { return group_.summed(x); }); })};
  };
  auto outputs = next(meeting_whole(over_ranks));
  pass_.follow.mark(outputs[0], norm.place);
  return outputs;
}

Tensors SequenceEngine::known_attention(const Attention& call, const Operator& op, const Next& next) {
  auto n = pass_.path.attentions.size();
  bool is_same = n < pass_.known->attentions.size() &&
                 pass_.known->attentions[n].query == call.query.sizes() &&
                 pass_.known->attentions[n].key == call.key.sizes();
  if (!is_same) refuse_other_path();
  pass_.path.attentions.push_back(pass_.known->attentions[n]);
  return carried(pass_.known->attentions[n], {}, call, op, next);
}

Tensors SequenceEngine::attention(const Attention& call, const Operator& op, const Next& next) {
  note_numbers(op, operators_.of(op));
  if (call.query.dim() < 2 || call.key.dim() < 2 || call.value.dim() < 2)
    return unsharded(op, operators_.of(op), next);
  auto here = op;
  const auto needs = what_attention_needs(pass_.follow, op.inputs);
  for (auto i : needs.whole) {
    pass_.path.reaches_over = true;
    here.inputs[i] = unsplit(op.inputs[i], *pass_.follow.of(op.inputs[i]));
  }
  if (!needs.cuts.empty()) pass_.path.reaches_over = true;
  if (!pass_.follow.touches(here.inputs)) return next(here);
  const auto met = meet(pass_.follow, here.inputs);
  pass_.path.attentions.push_back(met);
  return carried(met, needs.cuts, call.on(here.inputs), here, next);
}

Tensors SequenceEngine::carried(const Met& met, const std::vector<CutInput>& cuts, const Attention& call,
                                const Operator& op, const Next& next) {
  const auto n = pass_.path.attentions.size();
  auto over_ranks = op;
  over_ranks.compute = [&](const Tensors& inputs) {
    auto given = call.on(inputs);
    if (auto& rows = met.rows)
      return Tensors{attention_of_rows(*rows, group_.mine(pass_.splits.at(rows->split)), given)};
    if (!met.over) return Tensors{local_attention(given)};
    const auto layout = layout_of(*met.over);
    check_split_attention(given, layout.total());
    return Tensors{together([&] { return fmt::format("attention {} over {}", n, description(*met.over)); },
                            [&] { return split_attention(options_, layout, given); })};
  };
  auto outputs = next(meeting_whole(over_ranks, cuts));
  if (auto* place = pass_.follow.of(op.inputs[0])) pass_.follow.mark(outputs[0], *place);
  return outputs;
}

}  // namespace wanpar
