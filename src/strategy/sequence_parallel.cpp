#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/graph_task.h>

#include <map>
#include <optional>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "module/follow/follow.hpp"
#include "module/linear_map.hpp"
#include "module/same_module.hpp"
#include "strategy/consensus.hpp"
#include "strategy/met_attention.hpp"
#include "strategy/split_attention.hpp"
#include "strategy/token_layout.hpp"

namespace wanpar {
namespace {

const std::string kAttention = "aten::scaled_dot_product_attention";

/// What was learnt in one pass through the module, in order: enough for later passes with the same shapes to
/// go without looking at operators.
struct Path {
  std::vector<int64_t> splits;  // the whole lengths of what was split
  std::vector<Met> attentions;
  std::vector<SplitPlace> gathers;
};

/// One way through the module, or through a part of it.
struct Pass {
  std::vector<int64_t> shapes = {};  // of its arguments
  const Path* known = nullptr;       // what it keeps to, without looking
  bool is_first = false;             // with these shapes: the ranks ask each other whether they go on
  Path path = {};
  std::optional<Met> met = {};                                  // the attention at hand
  int backward = torch::autograd::get_current_graph_task_id();  // that it runs in; -1: in none
  Follow follow{"SequenceParallel", kSequenceRemedy};
};

}  // namespace

/// One rank's side of the strategy: knows how the tokens are split, and takes over attention over them.
class SequenceEngine : public Handler, public std::enable_shared_from_this<SequenceEngine> {
 public:
  explicit SequenceEngine(SequenceParallelOptions options) : options_(std::move(options)) {}

  const SequenceParallelOptions& options() const { return options_; }
  int size() const { return options_.ring.size() * options_.ulysses.size(); }

  /// A pass through the module begins, with arguments of these shapes.
  void begin(const std::vector<int64_t>& shapes) {
    auto known = known_.find(shapes);
    pass_ = {.shapes = shapes, .is_first = known == known_.end()};
    // Gradients of weights are summed where they meet split tokens, so every operator must be seen.
    bool look = known == known_.end() || options_.always_look || at::GradMode::is_enabled();
    if (!look) pass_.known = &known->second;
  }

  /// The pass was carried to its end.
  void learn() {
    if (std::exchange(pass_.is_first, false)) consensus_.go_on("the end");
    if (!pass_.known) known_.insert_or_assign(pass_.shapes, pass_.path);
  }

  /// The pass cannot be carried to its end here: the other ranks are not to wait.
  void fail() {
    if (std::exchange(pass_.is_first, false)) consensus_.refuse();
  }

  void end() { pass_ = {}; }

  /// To be asked before the result is gathered: was this a split forward that may be believed?
  void check_region() const {
    if (pass_.path.splits.empty())
      throw Error(
          "SequenceParallel: nothing was split; name the token arguments in .split, or call split_sequence "
          "in the module");
    bool attended = std::any_of(pass_.path.attentions.begin(), pass_.path.attentions.end(),
                                [](auto& met) { return met.over; });
    if (!attended)
      throw Error(
          fmt::format("SequenceParallel: no attention over the split tokens was met, so the result would be "
                      "that of {} separate sequences; {}",
                      size(), kSequenceRemedy));
  }

  at::Tensor cut(const at::Tensor& x, int64_t dim) {
    if (dim < -x.dim() || dim >= x.dim())
      throw Error(fmt::format("SequenceParallel: dimension {} of a tensor with {} dimensions cannot be split",
                              dim, x.dim()));
    dim = dim < 0 ? dim + x.dim() : dim;
    auto total = x.size(dim);
    auto& splits = pass_.path.splits;
    auto known = std::find(splits.begin(), splits.end(), total);
    if (known == splits.end()) known = splits.insert(known, total);
    int split = static_cast<int>(known - splits.begin());
    if (pass_.known &&
        (split >= static_cast<int>(pass_.known->splits.size()) || pass_.known->splits[split] != total))
      refuse_other_path();
    auto place = layout(total);
    auto mine = place.of(options_.ring.rank(), options_.ulysses.rank());
    auto part = linear_map(
        x, [=](const at::Tensor& whole) { return take(whole, dim, mine); },
        [=, self = shared_from_this()](const at::Tensor& gradient) {
          return self->joined(gradient, dim, place);
        });
    // What all of x is would otherwise be taken for split, where one rank has it all.
    if (part.is_same(x)) part = x.alias();
    pass_.follow.mark(
        part,
        {.split = split, .length = length(mine), .total = total, .dim = dim, .single = place.has_single()});
    return part;
  }

  /// x whole, its tokens along `dim` or, where that is left out, wherever they are.
  at::Tensor gather(const at::Tensor& x, std::optional<int64_t> dim) {
    check_region();
    auto at = gathered_place(x);
    if (dim && *dim < 0) *dim += x.dim();
    if (at.before * at.after != 1 || (dim && *dim != at.dim))
      throw Error(
          fmt::format("SequenceParallel: the tokens of the result lie along dimension {}{}, not along {}; "
                      "name their dimension in "
                      ".gather or gather_sequence",
                      at.dim, at.before * at.after != 1 ? ", merged with others" : "", dim.value_or(at.dim)));
    auto place = layout(at.total);
    auto mine = place.of(options_.ring.rank(), options_.ulysses.rank());
    return linear_map(
        x,
        [=, this](const at::Tensor& part) {
          return together([&] { return "gathering " + description(at); },
                          [&] { return joined(part, at.dim, place); });
        },
        [=](const at::Tensor& gradient) { return take(gradient, at.dim, mine).contiguous(); });
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

  at::Tensor whole(at::Tensor x) override {
    auto* found = pass_.follow.of(x);
    if (!found) return x;
    const auto at = *found;
    auto all = joined(x.detach().unflatten(at.dim, {at.before, at.length, at.after}).contiguous(), at.dim + 1,
                      layout(at.total));
    return all.flatten(at.dim, at.dim + 2);
  }

  void goes_on(const at::Tensor& x, const at::Tensor& like) override {
    auto* found = pass_.follow.of(like);
    if (!found) return;
    const auto place = *found;
    if (x.dim() != like.dim() || x.size(place.dim) != place.extent())
      throw Error(
          fmt::format("SequenceParallel: {} has come in the place of {}, whose dimension {} is split; {}",
                      x.sizes(), like.sizes(), place.dim, kSequenceRemedy));
    pass_.follow.mark(x, place);
  }

  std::string_view strategy() const override { return "SequenceParallel"; }
  bool watches() const override { return !pass_.known && !is_in_a_backward(); }

  void before(const Operator& op) override {
    if (is_fused_attention(op.name) && pass_.follow.touches(op.inputs))
      throw Error(
          fmt::format("SequenceParallel: {} attends over the split tokens inside one fused operator; {} (in "
                      "Python: torch.backends.mha.set_fastpath_enabled(False) "
                      "before tracing)",
                      op.name, kSequenceRemedy));
    if (op.name == kAttention)
      pass_.met = meet(pass_.follow, op.inputs);
    else
      pass_.follow.before(op);
    sum_gradients_of_whole(op);
  }

  void after(const Operator& op, std::span<const at::Tensor> outputs) override {
    if (op.name != kAttention) return pass_.follow.after(op, outputs);
    if (auto* place = pass_.follow.of(op.inputs[0])) pass_.follow.mark(outputs[0], *place);
  }

  Reentry reentry(std::span<const at::Tensor> inputs) override {
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

  at::Tensor attention(const Attention& call, const NextAttention& next) override {
    if (is_in_a_backward())
      throw Error(
          "SequenceParallel: an attention within a backward, by a function of the module's own; wrap the "
          "module "
          "in activation_checkpointing() instead");
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
                      [&] { return split_attention(options_, layout(over->total), call, next); });
    }
    if (auto& rows = pass_.met->rows) return attention_of_rows(*rows, held(*rows), call, next);
    return local_attention(call, next);
  }

 private:
  /// A pass through a part of the module, in the place of the one at hand.
  class Again {
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

  /// What all ranks know alike of a place.
  static std::string description(const SplitPlace& at) {
    return fmt::format("split {} of {} tokens along dimension {}, {} before and {} behind", at.split,
                       at.total, at.dim, at.before, at.after);
  }

  /// An exchange with the other ranks, for which all of them, in a first pass, must have come the same way.
  template <class Way, class Exchange>
  at::Tensor together(const Way& way, const Exchange& exchange) {
    if (!pass_.is_first) return exchange();
    pass_.is_first = false;  // what fails from here on has failed for all
    consensus_.go_on(way());
    auto result = exchange();
    pass_.is_first = true;
    return result;
  }

  /// Whether the module has called a backward of its own in this pass. Its operators are not for this
  /// handler: what is exchanged there, the linear maps exchange.
  bool is_in_a_backward() const { return torch::autograd::get_current_graph_task_id() != pass_.backward; }

  [[noreturn]] static void refuse_other_path() {
    throw Error(
        "SequenceParallel: the module took another path than in its first pass with arguments of these "
        "shapes; "
        "set .always_look");
  }

  /// Where the tokens of something that is to be gathered lie.
  SplitPlace gathered_place(const at::Tensor& x) {
    if (pass_.known) {
      auto n = pass_.path.gathers.size();
      if (n >= pass_.known->gathers.size()) refuse_other_path();
      pass_.path.gathers.push_back(pass_.known->gathers[n]);
    } else {
      auto* place = pass_.follow.of(x);
      if (!place)
        throw Error("SequenceParallel: what is to be gathered does not stem from one split sequence");
      pass_.path.gathers.push_back(*place);
    }
    return pass_.path.gathers.back();
  }

  TokenLayout layout(int64_t total) const {
    return {total, options_.ring.size(), options_.ulysses.size(), options_.balance_causal};
  }

  /// Which elements of a split are here.
  Ranges held(const SplitPlace& at) const {
    return layout(at.total).of(options_.ring.rank(), options_.ulysses.rank());
  }

  /// The ranks' parts, joined along dim.
  at::Tensor joined(const at::Tensor& part, int64_t dim, const TokenLayout& place) const {
    std::vector<int64_t> groups;
    for (auto& group : place.groups()) groups.push_back(length(group));
    auto group = options_.ulysses.all_gather(part, dim, place.lengths(options_.ring.rank())).get();
    return place.in_order(options_.ring.all_gather(std::move(group), dim, groups).get(), dim);
  }

  /// A weight, or any other tensor that every rank holds whole, meets this rank's tokens only. Its gradient
  /// is the sum over the ranks, and autograd is told so where the two meet.
  void sum_gradients_of_whole(const Operator& op) const {
    if (!at::GradMode::is_enabled() || !pass_.follow.touches(op.inputs)) return;
    for (auto& x : op.inputs) {
      if (!x.requires_grad() || pass_.follow.of(x)) continue;
      if (&x == &op.inputs.front() && op.name.ends_with("_"))
        throw Error(fmt::format(
            "SequenceParallel: {} writes split tokens into a tensor that is not split and asks for "
            "gradients; use the operator that makes a new tensor",
            op.name));
      x = linear_map(
          x, [](const at::Tensor& same) { return same; },
          [ulysses = options_.ulysses, ring = options_.ring](const at::Tensor& gradient) {
            return ring.all_reduce(ulysses.all_reduce(gradient).get()).get();
          });
    }
  }

  SequenceParallelOptions options_;
  Consensus consensus_{options_.ulysses, options_.ring};
  std::map<std::vector<int64_t>, Path> known_;  // of earlier passes, by the shapes of their arguments
  Pass pass_;
};

namespace detail {

struct SequenceRegion::State {
  State(std::shared_ptr<SequenceEngine> e, const std::vector<int64_t>& shapes) : engine(std::move(e)) {
    engine->begin(shapes);
    scope.emplace(*engine);
  }
  ~State() { engine->end(); }
  std::shared_ptr<SequenceEngine> engine;
  std::optional<Scope> scope;
};

SequenceRegion::SequenceRegion(std::shared_ptr<SequenceEngine> engine, size_t arguments,
                               const std::vector<int64_t>& shapes) {
  if (within("SequenceParallel"))
    throw Error(
        "SequenceParallel: inside of another one, whose tokens are split already; wrap the module once, with "
        "both groups as .ring and .ulysses");
  for (auto& cut : engine->options().split)
    if (cut.arg < 0 || cut.arg >= static_cast<int64_t>(arguments))
      throw Error(fmt::format("SequenceParallel: .split names argument {}, but the module was called with {}",
                              cut.arg, arguments));
  state_ = std::make_unique<State>(std::move(engine), shapes);
}

SequenceRegion::~SequenceRegion() = default;

void SequenceRegion::fail() {
  auto error = std::current_exception();
  try {
    Plain plain;
    state_->engine->fail();
  } catch (const Error&) {
    // The others have failed as well; what is to be told is why this rank did.
  }
  try {
    std::rethrow_exception(error);
  } catch (...) {
    Scope::rethrow();
  }
}

at::Tensor SequenceRegion::part(size_t arg, const at::Tensor& x) {
  Plain plain;
  for (auto& cut : state_->engine->options().split)
    if (cut.arg == static_cast<int64_t>(arg)) return state_->engine->cut(x, cut.dim);
  return x;
}

at::Tensor SequenceRegion::leave(at::Tensor result) {
  Plain plain;
  auto& engine = *state_->engine;
  auto& options = engine.options();
  if (!options.gather.empty())
    result = engine.gather(result, options.gather[0].dim);
  else if (!options.split.empty())
    result = engine.gather(result, {});
  engine.check_region();
  engine.learn();
  return result;
}

std::shared_ptr<SequenceEngine> make_sequence_engine(SequenceParallelOptions options,
                                                     const NamedTensors& parameters) {
  check_same_module("SequenceParallel", {options.ulysses, options.ring}, parameters);
  return std::make_shared<SequenceEngine>(std::move(options));
}

bool is_alone(const SequenceEngine& engine) { return engine.size() == 1; }

}  // namespace detail
}  // namespace wanpar
