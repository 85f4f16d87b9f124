#include "strategy/sequence_parallel/sequence_engine.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"

namespace wanpar {
namespace {

/// Signatures that are remembered; a loop over ever new shapes must not fill the memory.
constexpr size_t kRemembered = 256;

}  // namespace

std::string description(const SplitPlace& place) {
  auto text = fmt::format("sequence {} of {} tokens along dimension {}", place.split, place.total, place.dim);
  if (place.before * place.after > 1)
    text += fmt::format(", {} times over and {} long each", place.before, place.after);
  return text;
}

void refuse_other_path() {
  throw Error(
      "SequenceParallel: the module took another path than in its first pass with arguments of these shapes; "
      "leave .always_look on");
}

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

std::string SequenceEngine::remark() const {
  if (pass_.splits.empty()) return {};
  auto& layout = pass_.splits.front();
  return fmt::format(
      "SequenceParallel: this rank holds {} of {} tokens; what has one element for each of them (a padding "
      "mask) is to be named in .split, too",
      length(group_.mine(layout)), layout.total());
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

}  // namespace wanpar
