#include "strategy/split/split_forward.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "module/check_in_backward.hpp"
#include "module/same_values.hpp"
#include "module/shared_parameters.hpp"
#include "module/split/split_facts.hpp"

namespace wanpar {
namespace {

/// Whether the operator draws from a generator of the module's own.
bool has_own_generator(std::span<const c10::IValue> arguments) {
  return std::any_of(arguments.begin(), arguments.end(), [](auto& value) {
    if (!value.isGenerator() || !value.toGenerator().defined()) return false;
    const auto generator = value.toGenerator();
    return generator != at::globalContext().defaultGenerator(generator.device());
  });
}

}  // namespace

std::string text_of(const std::vector<SplitInput>& split, const std::vector<GatherOutput>& gather) {
  std::string text;
  for (auto& cut : split) text += fmt::format("\nsplit argument {}, dimension {}", cut.arg.text(), cut.dim);
  for (auto& join : gather)
    text += fmt::format("\ngather dimension {} of result {}", join.dim, join.result.text());
  return text;
}

SplitForward::SplitForward(std::shared_ptr<const SplitRanks> ranks, SplitEnds ends,
                           std::shared_ptr<SplitModule> module, const Arguments& arguments)
    : ranks_(std::move(ranks)),
      ends_(std::move(ends)),
      module_(std::move(module)),
      kind_(arguments.kinds),
      is_first_(module_->is_first_call(kind_)) {
  if (auto* outer = innermost<SplitForward>())
    throw UsageError(fmt::format(
        "{}: inside of {}, which splits the tokens already; wrap the module once, with both groups as {}",
        who(), outer->who(), ranks_->axes()));
  scope_.emplace(*this);
  ranks_->enter(is_first_ ? &alike_ : nullptr);
}

void SplitForward::enter(Arguments& arguments) {
  NoInterceptGuard no_intercept;
  ValueNames names;
  for (auto& cut : ends_.split) names.push_back(cut.arg);
  check_names(who(), ".split", names, arguments);
  for (auto& item : arguments.tensors)
    if (item.tensor.defined()) arguments_.push_back(item.tensor);
  for (auto& [name, x] : arguments.tensors)
    for (auto& one : ends_.split)
      if (x.defined() && one.arg.names(name)) {
        x = given(x, one.dim);
        break;
      }
}

void SplitForward::leave(NamedTensors& results) {
  NoInterceptGuard no_intercept;
  if (!has_split_)
    throw UsageError(
        who() +
        ": nothing was split; name the token arguments in .split, or call split_sequence in the module");
  give_back();
  if (is_first_)
    for (auto& item : results)
      if (item.tensor.defined() && !as_split(item.tensor))
        alike_.note_tensor("the end of the module", item.tensor);
  ranks_->leave();
  for (auto& [name, x] : results)
    if (x.defined()) x = gathered(name, x);
  if (is_first_) {
    alike_.compare(who(), ranks_->grid());
    module_->add(kind_);
  }
  if (!module_->shared().empty())
    for (auto& item : results)
      check_in_backward(item.tensor, [who = who(), shared = module_->shared()] {
        refuse_shared_accumulation(who, shared);
      });
}

std::string SplitForward::remark(std::string_view error) const {
  bool is_of_memory = error.find("data pointer of Tensor") != error.npos ||
                      error.find("storage of") != error.npos || error.find("set_data") != error.npos;
  if (!is_of_memory) return {};
  return who() +
         ": tensors whose tokens are split over ranks have no memory that one rank could read (data_ptr, "
         "accessor, set_data); use operators, or wanpar::unshard(x) for a plain copy";
}

at::Tensor SplitForward::split_sequence(at::Tensor x, int64_t dim,
                                        std::initializer_list<Companion> companions,
                                        const std::optional<TokenGrid>& grid) {
  if (grid && grid->frames * grid->rows * grid->columns != x.size(dim))
    throw UsageError(fmt::format("split_sequence: a grid of {} frames, {} rows and {} columns for {} tokens",
                                 grid->frames, grid->rows, grid->columns, x.size(dim)));
  auto place = [&](int64_t tokens, int64_t d) { return ranks_->placement_of_tokens(tokens, d, grid); };
  for (auto& companion : companions) {
    if (companion.tensor.size(companion.dim) != x.size(dim))
      throw UsageError(fmt::format(
          "split_sequence: a companion has {} elements along its dimension {}, but there are {} tokens",
          companion.tensor.size(companion.dim), companion.dim, x.size(dim)));
    companion.tensor = shard(companion.tensor, companion.dim, place);
  }
  return shard(x, dim, place);
}

at::Tensor SplitForward::gather_sequence(at::Tensor x, int64_t dim) { return gather(x, dim); }

at::Tensor SplitForward::unshard(at::Tensor x) { return unsplit(x); }

Tensors SplitForward::around(const Operator& op, const Next& next) {
  if (intercepts_operators() && draws(op.handle, op.arguments) && !has_own_generator(op.arguments))
    throw UsageError(fmt::format(
        "{}: {} draws random numbers, and ranks that are threads share one generator; give them as an "
        "argument, call eval(), or start a process a rank",
        who(), op.name));
  return next(op);
}

at::Tensor SplitForward::shard(const at::Tensor& x, int64_t dim, const PlacementOf& place) {
  if (dim < -x.dim() || dim >= x.dim())
    throw UsageError(
        fmt::format("{}: dimension {} of a tensor with {} dimensions cannot be split", who(), dim, x.dim()));
  if (dim < 0) dim += x.dim();
  has_split_ = true;
  if (is_first_) require_same_on_all(x);
  const auto there = place(x.size(dim), dim);
  return there ? split(x, *there, ranks_) : x;
}

/// Verifies that the tensor to shard is equal on all ranks.
void SplitForward::require_same_on_all(const at::Tensor& x) const {
  require_same_values(
      who(), "tensors to split", ranks_->grid(), {{"tensor", x}},
      "all ranks of the group split one tensor, so give each of them the same; batches of each "
      "rank's own want DataParallel over other ranks, on another axis of the mesh",
      !at::GradMode::is_enabled() ? "without a graph"
      : x.requires_grad()         ? "with gradients"
                                  : "without gradients");
}

at::Tensor SplitForward::given(const at::Tensor& x, int64_t dim) {
  auto known = std::find_if(given_.begin(), given_.end(),
                            [&](auto& one) { return one.original.is_same(x) && one.dim == dim; });
  if (known != given_.end()) return known->part;
  auto part = shard(x, dim, [&](int64_t extent, int64_t d) { return ranks_->placement(extent, d); });
  if (auto* split = as_split(part)) given_.push_back({x, part, dim, split->writes()});
  return part;
}

at::Tensor SplitForward::gather(const at::Tensor& x, std::optional<int64_t> dim) const {
  auto* place = placement_of(x);
  if (dim && *dim < 0) *dim += x.dim();
  const bool has_one =
      place && place->layout->total() == 1;  // with a single token the dimension is ambiguous
  if (place && dim && *dim != place->dim && !has_one)
    throw UsageError(
        fmt::format("{}: the tokens of the result lie along dimension {}, not along {}; name that in .gather "
                    "or gather_sequence",
                    who(), place->dim, *dim));
  return unsplit(x);
}

at::Tensor SplitForward::gathered(const std::string& name, const at::Tensor& x) const {
  auto& joins = ends_.gather;
  auto join = std::find_if(joins.begin(), joins.end(), [&](auto& j) { return j.result.names(name); });
  if (join != joins.end()) return gather(x, join->dim);
  if (joins.empty() && !ends_.split.empty()) return gather(x, {});
  if (auto* place = placement_of(x))
    throw UsageError(
        fmt::format("{}: the result {}{} goes out with its dimension {} split; call gather_sequence in the "
                    "module, or name it in .gather",
                    who(), x.sizes(), name.empty() ? "" : " (" + name + ")", place->dim));
  return unsplit(x);
}

void SplitForward::give_back() {
  for (auto& [original, part, dim, writes] : given_) {
    if (as_split(part)->writes() != writes)
      throw UsageError(who() +
                       ": the module gives an argument that is split other data (set_data); let it "
                       "make a tensor of its own");
    if (*writes == 0) continue;
    for (auto& other : arguments_)
      if (!other.is_same(original) && other.has_storage() && other.is_alias_of(original))
        throw UsageError(who() +
                         ": the module writes into an argument that is split, and another argument "
                         "shares its memory, which would not see that; let it write into a clone");
    if (part.requires_grad() || original.requires_grad())
      throw UsageError(who() +
                       ": the module writes into an argument of which each rank holds a part, with "
                       "gradients; let it write into a clone");
    at::NoGradGuard no_grad;
    original.copy_(full_tensor(part));
  }
}

}  // namespace wanpar
