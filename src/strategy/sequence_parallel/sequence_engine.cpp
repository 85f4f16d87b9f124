#include "strategy/sequence_parallel/sequence_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torch/csrc/autograd/variable.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"
#include "core/sentence.hpp"
#include "module/attention_parts.hpp"
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
      "leave .always_look on");
}

/// Signatures that are remembered; a loop over ever new shapes must not fill the memory.
constexpr size_t kRemembered = 256;

}  // namespace

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

/// Collective. An address of this process tells it from any other.
SequenceEngine::SequenceEngine(SequenceParallelOptions options) : options_(std::move(options)) {
  static const int here = 0;
  const auto address = reinterpret_cast<uintptr_t>(&here);
  const auto rows = group_.rows({static_cast<double>(::getpid()), static_cast<double>(address)});
  is_in_one_process_ =
      size() > 1 && std::all_of(rows.begin(), rows.end(), [&](auto& row) { return row == rows[0]; });
}

void SequenceEngine::begin(const std::string& signature) {
  auto known = known_.find(signature);
  pass_ = {};
  pass_.signature = signature;
  pass_.is_first = known == known_.end() || known->second.is_unsteady;
  pass_.is_composed = !handlers().empty();
  std::erase_if(kept_, [](auto& kept) { return kept.tensor.expired(); });
  // What a module keeps (a cache from step to step) it may compare with what it makes now: shares stay.
  pass_.path.shares = pass_.is_first ? Shares::uneven : kept_.empty() ? Shares::even : kept_as_;
  for (auto& kept : kept_) {
    auto place = place_in(kept.layout, kept.place.dim);
    place.before = kept.place.before, place.after = kept.place.after;
    pass_.follow.mark(at::Tensor(kept.tensor.lock()), place);
  }
  if (pass_.is_first) return;
  auto& path = known->second;
  pass_.remembered = &path;
  // Gradients of weights are summed where they meet split tokens, so every operator must be seen.
  bool look = options_.always_look || path.reaches_over || path.shares != Shares::even || !kept_.empty() ||
              at::GradMode::is_enabled();
  if (!look) pass_.known = &path;
}

void SequenceEngine::end() {
  kept_as_ = pass_.path.shares;
  kept_.clear();
  for (auto& [tensor, place] : pass_.follow.alive())
    kept_.push_back({decltype(Kept::tensor)(tensor.getIntrusivePtr()), pass_.splits[place.split], place});
  pass_ = {};
}

void SequenceEngine::learn() {
  if (pass_.is_first) together([] { return std::string("the end"); }, [] { return at::Tensor(); });
  pass_.is_first = false;
  if (pass_.known) return;
  auto path = std::move(pass_.path);
  if (pass_.remembered) path.answers = pass_.remembered->answers;
  auto before = known_.find(pass_.signature);
  path.is_unsteady |=
      before != known_.end() && !pass_.is_composed && path.operators != before->second.operators;
  path.is_unsteady |= before != known_.end() && before->second.is_unsteady;
  if (known_.size() >= kRemembered) known_.clear();
  known_.insert_or_assign(pass_.signature, std::move(path));
  pass_.remembered = nullptr;
}

/// Groups that are checked learn of it at their next call; of others the ranks are at the next vote.
void SequenceEngine::fail() {
  auto is_checked = [](const Communicator& group) {
    return group.size() == 1 || group.transport()->begins_together();
  };
  // What went wrong in a later pass may go right in one that asks.
  if (auto known = known_.find(pass_.signature); !pass_.is_first && known != known_.end())
    known->second.is_unsteady = true;
  bool is_vote_awaited = std::exchange(pass_.is_first, false);
  if (is_vote_awaited && !(is_checked(options_.ulysses) && is_checked(options_.ring))) vote_.refuse();
}

void SequenceEngine::refuse(const Operator& op, const std::string& reason) const {
  auto split = std::find_if(op.inputs.begin(), op.inputs.end(), [&](auto& x) { return pass_.follow.of(x); });
  auto where = split == op.inputs.end() ? std::string()
                                        : fmt::format(" (dimension {} of {} is split)",
                                                      pass_.follow.of(*split)->dim, split->sizes());
  throw Error(fmt::format("SequenceParallel: {} {}{}", op.name, reason, where));
}

void SequenceEngine::check_region(std::span<const at::Tensor> results) {
  if (pass_.refusal) std::rethrow_exception(pass_.refusal);
  if (!pass_.has_cut)
    throw Error(
        "SequenceParallel: nothing was split; name the token arguments in .split, or call split_sequence in "
        "the module");
  check_graph(results);
  check_way(results);
  give_back();
}

/// A rank that has taken another way than in the first pass asks the others whether they have, too. They
/// answer, or are found to make another call: the next one, where there is none for the results.
void SequenceEngine::check_way(std::span<const at::Tensor> results) {
  // Another strategy may run what it runs otherwise from pass to pass, and differently by rank.
  if (pass_.is_first || pass_.is_composed || !options_.always_look || pass_.splits.empty()) return;
  auto known = known_.find(pass_.signature);
  if (known == known_.end()) return;
  bool is_gathered = std::any_of(results.begin(), results.end(), [&](auto& x) { return pass_.follow.of(x); });
  bool is_other = known->second.operators != pass_.path.operators;
  if (is_other || !is_gathered) vote_.go_on("another way than in its first pass", pass_.path.operators);
}

TokenLayout SequenceEngine::layout_for(int64_t total) const {
  return group_.layout(total, pass_.path.shares);
}

/// Which of the splits of this pass it is; a new one where there was none like it.
int SequenceEngine::split_of(const TokenLayout& layout) {
  auto& splits = pass_.splits;
  auto found = std::find(splits.begin(), splits.end(), layout);
  if (found == splits.end()) {
    found = splits.insert(found, layout);
    pass_.path.totals.push_back(layout.total());
  }
  int split = static_cast<int>(found - splits.begin());
  if (pass_.known &&
      (split >= static_cast<int>(pass_.known->totals.size()) || pass_.known->totals[split] != layout.total()))
    refuse_other_path();
  return split;
}

TokenLayout SequenceEngine::layout_of(const SplitPlace& place) const {
  auto& layout = pass_.splits.at(place.split);
  return place.before * place.after == 1 ? layout : layout.merged(place.before, place.after);
}

SplitPlace SequenceEngine::place_in(const TokenLayout& layout, int64_t dim) {
  return {split_of(layout), length(group_.mine(layout)), layout.total(), dim};
}

at::Tensor SequenceEngine::unsplit(const at::Tensor& x, const SplitPlace& place) {
  return together([&] { return "gathering " + description(place); },
                  [&] { return group_.unsplit(x, place.dim, layout_of(place)); });
}

/// This rank's tokens of x, whose dimension dim is whole, cut like those at another place.
at::Tensor SequenceEngine::share(const at::Tensor& x, int64_t dim, const SplitPlace& like) {
  auto part = group_.share(x, dim, layout_of(like));
  auto place = like;
  place.dim = dim;
  pass_.follow.mark(part, place);
  return part;
}

at::Tensor SequenceEngine::cut(const at::Tensor& x, int64_t dim) {
  if (dim < -x.dim() || dim >= x.dim())
    throw Error(fmt::format("SequenceParallel: dimension {} of a tensor with {} dimensions cannot be split",
                            dim, x.dim()));
  dim = dim < 0 ? dim + x.dim() : dim;
  pass_.has_cut = true;
  if (x.size(dim) < options_.min_share * size()) return x;
  const auto place = place_in(layout_for(x.size(dim)), dim);
  auto part = share(x, dim, place);
  pass_.given.push_back({x, part, place});
  return part;
}

/// What the module wrote into its arguments is the caller's, too.
void SequenceEngine::give_back() {
  for (auto& [original, part, place, is_written] : std::exchange(pass_.given, {})) {
    if (!is_written) continue;
    if (part.requires_grad() || original.requires_grad())
      throw Error(
          "SequenceParallel: the module writes into an argument of which each rank holds a part, with "
          "gradients; let it write into a clone");
    at::NoGradGuard no_grad;
    original.copy_(unsplit(part, place));
  }
}

at::Tensor SequenceEngine::gather(const at::Tensor& x, std::optional<int64_t> dim) {
  if (dim && *dim < 0) *dim += x.dim();
  if (auto* owed = pass_.promises.of(x)) return Promise(*owed).whole();
  std::optional<SplitPlace> at;
  if (pass_.known) {
    auto n = pass_.path.gathers.size();
    if (n >= pass_.known->gathers.size()) refuse_other_path();
    at = pass_.known->gathers[n];
  } else if (auto* place = pass_.follow.of(x)) {
    at = *place;
  } else if (pass_.follow.is_hidden(x)) {
    throw Error(fmt::format(
        "SequenceParallel: a result {} lies in memory that holds split tokens, and was made out of "
        "sight (x.data(), a view from before they were written)",
        x.sizes()));
  }
  if (pass_.follow.is_unwritten(x))
    throw Error(
        fmt::format("SequenceParallel: a result {} holds split tokens that no operator has written: they "
                    "were filled out of sight (by a pointer, in another thread); fill them by operators",
                    x.sizes()));
  pass_.path.gathers.push_back(at);
  if (!at) {  // every rank has it alike: that is to be seen
    if (pass_.is_first) pass_.consensus.note_result(x);
    return x;
  }
  if (dim && *dim != at->dim)
    throw Error(
        fmt::format("SequenceParallel: the tokens of the result lie along dimension {}, not along {}; name "
                    "that in .gather or gather_sequence",
                    at->dim, *dim));
  return unsplit(x, *at);
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
  return group_.joined(x.detach().contiguous(), found->dim, layout_of(*found));
}

void SequenceEngine::on_substitute(const at::Tensor& replacement, const at::Tensor& original) {
  auto* found = pass_.follow.of(original);
  if (!found) return;
  const auto place = *found;
  if (replacement.dim() != original.dim() || replacement.size(place.dim) != place.extent())
    throw Error(
        fmt::format("SequenceParallel: {} has come in the place of {}, whose dimension {} is split; keep "
                    "this part outside "
                    "split_sequence and gather_sequence",
                    replacement.sizes(), original.sizes(), place.dim));
  pass_.follow.mark(replacement, place);
}

Reentry SequenceEngine::reentry(std::span<const at::Tensor> inputs) {
  std::vector<std::optional<SplitPlace>> places;
  for (auto& x : inputs) {
    auto* place = x.defined() ? pass_.follow.of(x) : nullptr;
    places.push_back(place ? std::optional(*place) : std::nullopt);
  }
  Pass part;
  part.signature = pass_.signature;
  part.path.shares = pass_.path.shares;
  part.splits = pass_.splits;
  part.has_cut = pass_.has_cut;
  part.answered = pass_.is_first ? pass_.path.answers.size() : pass_.answered;
  return [self = shared_from_this(), part, places](std::span<const at::Tensor> inputs) {
    auto again = part;
    again.has_gradients = at::GradMode::is_enabled();
    again.backward = torch::autograd::get_current_graph_task_id();
    auto path = self->known_.find(again.signature);  // learnt when the forward ended
    if (path != self->known_.end()) again.remembered = &path->second;
    for (size_t i = 0; i < places.size(); ++i)
      if (places[i]) again.follow.mark(inputs[i], *places[i]);
    return std::make_shared<Again>(self, std::move(again));
  };
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
  const auto written = facts.is_mutable ? written_by(facts, op) : Tensors();
  for (auto& x : op.inputs) {
    bool is_target = std::any_of(written.begin(), written.end(), [&](auto& w) { return w.is_same(x); });
    if (!is_target && facts.kind != OperatorKind::product && pass_.follow.of(x) &&
        pass_.follow.is_unwritten(x))
      throw Error(fmt::format(
          "SequenceParallel: {} reads split tokens {} that no operator has written: they were filled out of "
          "sight (by a pointer, in another thread); fill them by operators",
          op.name, x.sizes()));
  }
  for (auto& x : written) {
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
  const auto targets = pass_.is_first ? written_by(operators_.of(op), op) : Tensors();
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    auto& x = op.inputs[i];
    if (!x.defined() || pass_.follow.of(x)) continue;
    bool is_target =
        std::any_of(targets.begin(), targets.end(), [&](auto& target) { return target.is_same(x); });
    if (pass_.is_first && !is_target) noted.push_back(i);
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
    const auto here = arguments ? with_arguments(op, std::move(*arguments)) : op;
    Step step{pass_.follow, here, at::DimVector(op.inputs[0].sizes()), {}};
    if (step.tensor(0).defined()) step.sizes = at::DimVector(step.tensor(0).sizes());
    auto verdict = facts.math(step);
    const auto targets = facts.is_mutable ? written_by(facts, op) : Tensors();
    auto writes_to = [&](size_t input) {
      return std::any_of(targets.begin(), targets.end(),
                         [&](auto& x) { return x.is_same(op.inputs[input]); });
    };
    bool is_lost =
        std::any_of(step.cuts.begin(), step.cuts.end(), [&](auto& c) { return writes_to(c.input); }) ||
        std::any_of(step.moves.begin(), step.moves.end(), [&](auto& m) { return writes_to(m.input); });
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

/// A weight, or any other tensor that every rank holds whole, meets this rank's tokens only. Its gradient is
/// the sum over the ranks, and autograd is told so where the two meet.
at::Tensor SequenceEngine::with_summed_gradient(const at::Tensor& x) {
  if (!pass_.has_gradients || !x.requires_grad()) return x;
  if (at::GradMode::is_enabled()) return group_.with_summed_gradient(x);
  // In the forward of an autograd function of the module's own, or where no gradient is wanted.
  pass_.met_unrecorded.push_back(torch::autograd::impl::gradient_edge(x).function.get());
  return x;
}

/// A node of the graph whose gradients nobody here sees must not be passed by those of split tokens.
void SequenceEngine::check_graph(std::span<const at::Tensor> results) const {
  if (!pass_.has_gradients) return;
  std::vector<torch::autograd::Node*> to_see;
  std::unordered_set<const void*> seen;
  for (auto& x : results)
    if (x.defined() && x.requires_grad() && x.grad_fn()) to_see.push_back(x.grad_fn().get());
  std::unordered_set<const void*> borders;  // behind them the graph is the caller's
  for (auto& x : pass_.arguments)
    if (x.defined() && x.grad_fn()) borders.insert(x.grad_fn().get());
  while (!to_see.empty()) {
    auto* node = to_see.back();
    to_see.pop_back();
    if (!node || !seen.insert(node).second || borders.contains(node)) continue;
    // Hooks on nodes are other strategies'.
    if (!node->tensor_pre_hooks().empty() && !node->name().ends_with("AccumulateGrad"))
      throw Error(fmt::format(
          "SequenceParallel: the module has registered a gradient hook (behind {}), which would see this "
          "rank's part of a gradient only; register it on the result, or on a parameter",
          node->name()));
    bool is_own_function = node->name().find("CppNode<") != std::string::npos &&
                           node->name().find("wanpar::") == std::string::npos;
    for (auto& edge : node->next_edges()) {
      if (is_own_function && pass_.follow.is_of_split(edge.function.get()))
        throw Error(fmt::format(
            "SequenceParallel: {} takes split tokens, and its backward is the module's own, which "
            "would see this rank's part of a gradient only; write it by operators",
            node->name()));
      if (is_own_function &&
          std::count(pass_.met_unrecorded.begin(), pass_.met_unrecorded.end(), edge.function.get()))
        throw Error(fmt::format(
            "SequenceParallel: in {} a weight meets split tokens inside of a function whose backward is the "
            "module's own, and gives this rank's part of the gradient; write it by operators",
            node->name()));
      to_see.push_back(edge.function.get());
    }
  }
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
