#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <algorithm>
#include <optional>

#include "module/check_in_backward.hpp"
#include "module/same_module.hpp"
#include "module/shared_parameters.hpp"
#include "module/split/split_facts.hpp"
#include "module/split/split_tensor.hpp"
#include "strategy/sequence_parallel/sequence_group.hpp"

namespace wanpar {
namespace {

const char* kSequence = "SequenceParallel";

/// Calls that are remembered; a loop over ever new shapes must not fill the memory.
constexpr size_t kRemembered = 256;

/// A line for each option that every rank must give alike.
std::string text_of(const SequenceParallelOptions& options) {
  auto text = fmt::format("balance_causal {}\nmin_share {}", options.balance_causal, options.min_share);
  for (auto& cut : options.split)
    text += fmt::format("\nsplit argument {}, dimension {}", cut.arg.text(), cut.dim);
  for (auto& join : options.gather)
    text += fmt::format("\ngather dimension {} of result {}", join.dim, join.result.text());
  return text;
}

/// Collective. An address of this process tells it from any other.
bool are_in_one_process(const std::vector<Communicator>& grid) {
  static const int here = 0;
  auto places = at::tensor({static_cast<int64_t>(::getpid()), reinterpret_cast<int64_t>(&here)}, at::kLong)
                    .unsqueeze(0);
  for (auto& group : grid) places = group.all_gather(places.to(group.device()), 0).get();
  return places.size(0) > 1 && places.eq(places[0]).all().item<bool>();
}

/// The first pass with a kind of call, in which ranks compare what is to be alike.
struct FirstPass {
  std::shared_ptr<std::unordered_set<std::string>> known;
  std::string kind;
  bool is_in_one_process;  ///< all ranks are threads, and share one generator of random numbers
};

/// Whether it draws from a generator that the module has made.
bool has_own_generator(std::span<const c10::IValue> arguments) {
  return std::any_of(arguments.begin(), arguments.end(), [](auto& value) {
    if (!value.isGenerator() || !value.toGenerator().defined()) return false;
    const auto generator = value.toGenerator();
    return generator != at::globalContext().defaultGenerator(generator.device());
  });
}

/// What one rank does between the beginning and the end of a split forward.
class SequenceForward : public ForwardScope, public TokenHandler, public OperatorHandler {
 public:
  SequenceForward(std::shared_ptr<const SequenceGroup> group, std::optional<FirstPass> first,
                  NamedTensors shared)
      : group_(std::move(group)), first_(std::move(first)), shared_(std::move(shared)) {
    if (innermost<SequenceForward>())
      throw Error(
          "SequenceParallel: inside of another one, whose tokens are split already; wrap the module once, "
          "with "
          "both groups as .ring and .ulysses");
    scope_.emplace(*this);
    group_->enter(first_ ? &alike_ : nullptr);
  }
  ~SequenceForward() override { group_->leave(); }

  void enter(Arguments& arguments) override {
    Plain plain;
    ValueNames names;
    for (auto& cut : options().split) names.push_back(cut.arg);
    check_names(kSequence, ".split", names, arguments);
    for (auto& item : arguments.tensors)
      if (item.tensor.defined()) arguments_.push_back(item.tensor);
    for (auto& [name, x] : arguments.tensors)
      for (auto& one : options().split)
        if (x.defined() && one.arg.names(name)) {
          x = given(x, one.dim);
          break;
        }
  }

  void leave(NamedTensors& results) override {
    Plain plain;
    if (!has_cut_)
      throw Error(
          "SequenceParallel: nothing was split; name the token arguments in .split, or call split_sequence "
          "in "
          "the module");
    give_back();
    if (first_)
      for (auto& item : results)
        if (item.tensor.defined() && !as_split(item.tensor))
          alike_.note_tensor("the end of the module", item.tensor);
    group_->leave();
    for (auto& [name, x] : results)
      if (x.defined()) x = gathered(name, x);
    if (first_) {
      alike_.compare({options().ulysses, options().ring});
      first_->known->insert(first_->kind);
    }
    if (!shared_.empty())
      for (auto& item : results)
        check_in_backward(item.tensor, [shared = shared_] { refuse_shared_accumulation(kSequence, shared); });
  }

  std::string remark(std::string_view error) const override {
    bool is_of_memory = error.find("data pointer of Tensor") != error.npos ||
                        error.find("storage of") != error.npos || error.find("set_data") != error.npos;
    if (!is_of_memory) return {};
    return "SequenceParallel: tensors whose tokens are split over ranks have no memory that one rank could "
           "read "
           "(data_ptr, accessor, set_data); use operators, or wanpar::unshard(x) for a plain copy";
  }

  at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions) override {
    for (auto& companion : companions) {
      if (companion.tensor.size(companion.dim) != x.size(dim))
        throw Error(fmt::format(
            "split_sequence: a companion has {} elements along its dimension {}, but there are {} tokens",
            companion.tensor.size(companion.dim), companion.dim, x.size(dim)));
      companion.tensor = cut(companion.tensor, companion.dim);
    }
    return cut(x, dim);
  }

  at::Tensor gather_sequence(at::Tensor x, int64_t dim) override { return gather(x, dim); }
  at::Tensor unshard(at::Tensor x) override { return unsplit(x); }

  /// Random numbers that every rank draws for what is whole are the same where ranks have generators of their
  /// own, seeded alike; those of a generator of the module's own are compared where they meet tokens.
  bool intercepts_operators() const override { return first_ && first_->is_in_one_process; }
  Tensors around(const Operator& op, const Next& next) override {
    if (intercepts_operators() && draws(op.handle, op.arguments) && !has_own_generator(op.arguments))
      throw Error(fmt::format(
          "SequenceParallel: {} draws random numbers, and ranks that are threads share one generator; give "
          "them as an argument, call eval(), or start a process a rank",
          op.name));
    return next(op);
  }

 private:
  const SequenceParallelOptions& options() const { return group_->options(); }

  at::Tensor cut(const at::Tensor& x, int64_t dim) {
    if (dim < -x.dim() || dim >= x.dim())
      throw Error(fmt::format("SequenceParallel: dimension {} of a tensor with {} dimensions cannot be split",
                              dim, x.dim()));
    if (dim < 0) dim += x.dim();
    has_cut_ = true;
    if (first_) Alike::require_same({options().ulysses, options().ring}, x);
    if (x.size(dim) < options().min_share * group_->size()) return x;
    auto layout = std::make_shared<TokenLayout>(group_->layout(x.size(dim)));
    return split(x, {std::move(layout), group_->rank(), dim}, group_);
  }

  /// An argument cut; one that is given twice is one tensor still.
  at::Tensor given(const at::Tensor& x, int64_t dim) {
    auto known = std::find_if(given_.begin(), given_.end(),
                              [&](auto& one) { return one.original.is_same(x) && one.dim == dim; });
    if (known != given_.end()) return known->part;
    auto part = cut(x, dim);
    if (auto* split = as_split(part)) given_.push_back({x, part, dim, split->writes()});
    return part;
  }

  at::Tensor gather(const at::Tensor& x, std::optional<int64_t> dim) const {
    auto* place = place_of(x);
    if (dim && *dim < 0) *dim += x.dim();
    if (place && dim && *dim != place->dim)
      throw Error(
          fmt::format("SequenceParallel: the tokens of the result lie along dimension {}, not along {}; name "
                      "that in .gather or gather_sequence",
                      place->dim, *dim));
    return unsplit(x);
  }

  at::Tensor gathered(const std::string& name, const at::Tensor& x) const {
    auto& joins = options().gather;
    auto join = std::find_if(joins.begin(), joins.end(), [&](auto& j) { return j.result.names(name); });
    if (join != joins.end()) return gather(x, join->dim);
    if (joins.empty() && !options().split.empty()) return gather(x, {});
    if (auto* place = place_of(x))
      throw Error(
          fmt::format("SequenceParallel: the result {}{} goes out with its dimension {} split; call "
                      "gather_sequence in the module, "
                      "or name it in .gather",
                      x.sizes(), name.empty() ? "" : " (" + name + ")", place->dim));
    return unsplit(x);
  }

  /// What the module wrote into its arguments is the caller's, too.
  void give_back() {
    for (auto& [original, part, dim, writes] : given_) {
      if (as_split(part)->writes() != writes)
        throw Error(
            "SequenceParallel: the module gives an argument that is split other data (set_data); let it "
            "make a tensor of its own");
      if (*writes == 0) continue;
      for (auto& other : arguments_)
        if (!other.is_same(original) && other.has_storage() && other.is_alias_of(original))
          throw Error(
              "SequenceParallel: the module writes into an argument that is split, and another argument "
              "shares its memory, which would not see that; let it write into a clone");
      if (part.requires_grad() || original.requires_grad())
        throw Error(
            "SequenceParallel: the module writes into an argument of which each rank holds a part, with "
            "gradients; let it write into a clone");
      at::NoGradGuard no_grad;
      original.copy_(whole_of(part));
    }
  }

  struct GivenTokens {
    at::Tensor original, part;
    int64_t dim;
    SplitTensor::Writes writes;
  };
  std::shared_ptr<const SequenceGroup> group_;
  std::optional<FirstPass> first_;
  Alike alike_;
  bool has_cut_ = false;
  NamedTensors shared_;
  std::vector<at::Tensor> arguments_;
  std::vector<GivenTokens> given_;
  std::optional<Scope> scope_;
};

}  // namespace

SequenceParallelStrategy::SequenceParallelStrategy(Options options, const ModuleTensors& tensors) {
  if (options.min_share < 1)
    throw Error(fmt::format("SequenceParallel: .min_share is {}; give 1 or more tokens", options.min_share));
  const std::vector<Communicator> grid{options.ulysses, options.ring};
  require_same(kSequence, "options", grid, text_of(options));
  require_same_module(kSequence, grid, tensors.parameters);
  if (are_shared(grid, tensors.parameters)) shared_ = tensors.parameters;
  is_in_one_process_ = are_in_one_process(grid);
  group_ = std::make_shared<SequenceGroup>(std::move(options));
}

bool SequenceParallelStrategy::is_alone() const { return group_->size() == 1; }

std::vector<Communicator> SequenceParallelStrategy::groups() const {
  return {group_->options().ulysses, group_->options().ring};
}

std::unique_ptr<ForwardScope> SequenceParallelStrategy::begin(const Arguments& arguments,
                                                              std::shared_ptr<void>) const {
  if (seen_->size() > kRemembered) seen_->clear();
  std::optional<FirstPass> first;
  if (!seen_->contains(arguments.kinds)) first = FirstPass{seen_, arguments.kinds, is_in_one_process_};
  return std::make_unique<SequenceForward>(group_, std::move(first), shared_);
}

}  // namespace wanpar
