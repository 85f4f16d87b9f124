#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <optional>
#include <unordered_set>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "module/follow/follow.hpp"
#include "module/linear_map.hpp"
#include "strategy/ring.hpp"
#include "strategy/token_layout.hpp"
#include "strategy/ulysses.hpp"

namespace wanpar {
namespace {

const char* kRemedy =
    "call at::scaled_dot_product_attention instead, or keep this part outside split_sequence and "
    "gather_sequence";

/// Attention that is not scaled_dot_product_attention.
const std::unordered_set<std::string> kFusedAttention{"aten::_native_multi_head_attention",
                                                      "aten::_transformer_encoder_layer_fwd",
                                                      "aten::_scaled_dot_product_flash_attention_for_cpu",
                                                      "aten::_scaled_dot_product_flash_attention",
                                                      "aten::_scaled_dot_product_efficient_attention",
                                                      "aten::_scaled_dot_product_cudnn_attention",
                                                      "aten::_scaled_dot_product_attention_math"};

const std::string kAttention = "aten::scaled_dot_product_attention";

/// What became of an attention: taken over, or left to this rank alone.
struct Met {
  std::vector<int64_t> query, key;  // shapes
  std::optional<Place> over;        // the split that its keys stem from, and is attended over

  bool operator==(const Met&) const = default;
};

/// What was learnt in one pass through the module, in order: enough for later passes with the same shapes to
/// go without looking at operators.
struct Path {
  std::vector<int64_t> splits;  // the whole lengths of what was split
  std::vector<Met> attentions;
  std::vector<Place> gathers;
};

}  // namespace

/// One rank's side of the strategy: knows how the tokens are split, and takes over attention over them.
class SequenceEngine : public Handler {
 public:
  explicit SequenceEngine(SequenceParallelOptions options) : options_(std::move(options)) {}

  const SequenceParallelOptions& options() const { return options_; }
  int size() const { return options_.ring.size() * options_.ulysses.size(); }

  /// A pass through the module begins, with arguments of these shapes.
  void begin(const std::vector<int64_t>& shapes) {
    path_ = {};
    met_.reset();
    shapes_ = shapes;
    auto known = known_.find(shapes);
    // Gradients of weights are summed where they meet split tokens, so every operator must be seen.
    bool look = known == known_.end() || options_.always_look || at::GradMode::is_enabled();
    known_path_ = look ? nullptr : &known->second;
  }

  /// The pass was carried to its end.
  void learn() {
    if (!known_path_) known_.insert_or_assign(shapes_, path_);
  }

  void end() { follow_.clear(); }

  /// To be asked before the result is gathered: was this a split forward that may be believed?
  void check_region() const {
    if (path_.splits.empty())
      throw Error(
          "SequenceParallel: nothing was split; name the token arguments in .split, or call split_sequence "
          "in the module");
    bool attended =
        std::any_of(path_.attentions.begin(), path_.attentions.end(), [](auto& met) { return met.over; });
    if (!attended)
      throw Error(
          fmt::format("SequenceParallel: no attention over the split tokens was met, so the result would be "
                      "that of {} separate sequences; {}",
                      size(), kRemedy));
  }

  at::Tensor cut(const at::Tensor& x, int64_t dim) {
    if (dim < -x.dim() || dim >= x.dim())
      throw Error(fmt::format("SequenceParallel: dimension {} of a tensor with {} dimensions cannot be split",
                              dim, x.dim()));
    dim = dim < 0 ? dim + x.dim() : dim;
    auto total = x.size(dim);
    auto& splits = path_.splits;
    auto known = std::find(splits.begin(), splits.end(), total);
    if (known == splits.end()) known = splits.insert(known, total);
    int split = static_cast<int>(known - splits.begin());
    if (known_path_ &&
        (split >= static_cast<int>(known_path_->splits.size()) || known_path_->splits[split] != total))
      refuse_other_path();
    auto place = layout(total);
    auto mine = place.of(options_.ring.rank(), options_.ulysses.rank());
    auto part = linear_map(
        x, [=](const at::Tensor& whole) { return take(whole, dim, mine); },
        [=, this](const at::Tensor& gradient) { return joined(gradient, dim, place); });
    // What all of x is would otherwise be taken for split, where one rank has it all.
    if (part.is_same(x)) part = x.alias();
    follow_.mark(part, {.split = split, .length = length(mine), .total = total, .dim = dim});
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
        x, [=, this](const at::Tensor& part) { return joined(part, at.dim, place); },
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
    auto* found = follow_.of(x);
    if (!found) return x;
    const auto at = *found;
    auto all = joined(x.detach().unflatten(at.dim, {at.before, at.length, at.after}).contiguous(), at.dim + 1,
                      layout(at.total));
    return all.flatten(at.dim, at.dim + 2);
  }

  void goes_on(const at::Tensor& x, const at::Tensor& like) override {
    auto* found = follow_.of(like);
    if (!found) return;
    const auto place = *found;
    if (x.dim() != like.dim() || x.size(place.dim) != place.extent())
      throw Error(
          fmt::format("SequenceParallel: {} has come in the place of {}, whose dimension {} is split; {}",
                      x.sizes(), like.sizes(), place.dim, kRemedy));
    follow_.mark(x, place);
  }

  std::string_view strategy() const override { return "SequenceParallel"; }
  bool watches() const override { return !known_path_; }

  void before(const Operator& op) override {
    if (kFusedAttention.contains(op.name) && follow_.touches(op.inputs))
      throw Error(
          fmt::format("SequenceParallel: {} attends over the split tokens inside one fused operator; {} (in "
                      "Python: torch.backends.mha.set_fastpath_enabled(False) "
                      "before tracing)",
                      op.name, kRemedy));
    if (op.name == kAttention)
      met_ = meet(op.inputs);
    else
      follow_.before(op);
    sum_gradients_of_whole(op);
  }

  void after(const Operator& op, std::span<const at::Tensor> outputs) override {
    if (op.name != kAttention) return follow_.after(op, outputs);
    if (auto* place = follow_.of(op.inputs[0])) follow_.mark(outputs[0], *place);
  }

  at::Tensor attention(const Attention& call, const NextAttention& next) override {
    auto n = path_.attentions.size();
    if (known_path_) {
      auto same = n < known_path_->attentions.size() &&
                  known_path_->attentions[n].query == call.query.sizes() &&
                  known_path_->attentions[n].key == call.key.sizes();
      if (!same) refuse_other_path();
      met_ = known_path_->attentions[n];
    }
    path_.attentions.push_back(*met_);
    return met_->over ? split_attention(call, next, met_->over->total) : local(call, next);
  }

 private:
  [[noreturn]] static void refuse_other_path() {
    throw Error(
        "SequenceParallel: the module took another path than in its first pass with arguments of these "
        "shapes; "
        "set .always_look");
  }

  /// Where the tokens of something that is to be gathered lie.
  Place gathered_place(const at::Tensor& x) {
    if (known_path_) {
      auto n = path_.gathers.size();
      if (n >= known_path_->gathers.size()) refuse_other_path();
      path_.gathers.push_back(known_path_->gathers[n]);
    } else {
      auto* place = follow_.of(x);
      if (!place)
        throw Error("SequenceParallel: what is to be gathered does not stem from one split sequence");
      path_.gathers.push_back(*place);
    }
    return path_.gathers.back();
  }

  /// What kind of attention this is, told by where its inputs stem from.
  Met meet(std::span<const at::Tensor> inputs) const {
    auto &query = inputs[0], &key = inputs[1], &value = inputs[2];
    Met met{query.sizes().vec(), key.sizes().vec(), {}};
    auto *queries = follow_.of(query), *keys = follow_.of(key), *values = follow_.of(value);
    if (inputs.size() > 3 && follow_.of(inputs[3]))
      throw Error(
          "SequenceParallel: the mask of an attention stems from split tokens; give the mask whole, it is "
          "cut inside");
    auto tokens = query.dim() - 2;
    bool whole_keys = !keys && !values;
    if (whole_keys && (!queries || queries->dim <= tokens)) return met;
    bool alike = queries && keys && values && *queries == *keys && *keys == *values;
    if (!alike || queries->dim > tokens)
      throw Error(
          "SequenceParallel: an attention whose queries, keys and values do not all stem from one split "
          "sequence cannot be split; " +
          std::string(kRemedy));
    // Tokens in a batch dimension (frames, in attention within each frame) attend each for themselves.
    if (queries->dim < tokens) {
      auto shape = query.sizes();
      bool mask_too =
          inputs.size() > 3 && inputs[3].dim() >= static_cast<int64_t>(shape.size()) - queries->dim &&
          inputs[3].size(inputs[3].dim() - (static_cast<int64_t>(shape.size()) - queries->dim)) != 1;
      if (mask_too)
        throw Error("SequenceParallel: a mask of its own for each split element; make it the same for all");
      return met;
    }
    if (queries->before * queries->after != 1)
      throw Error("SequenceParallel: tokens merged with another dimension cannot be attended over; " +
                  std::string(kRemedy));
    met.over = *queries;
    return met;
  }

  TokenLayout layout(int64_t total) const {
    return {total, options_.ring.size(), options_.ulysses.size(), options_.balance_causal};
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
    if (!at::GradMode::is_enabled() || !follow_.touches(op.inputs)) return;
    for (auto& x : op.inputs) {
      if (!x.requires_grad() || follow_.of(x)) continue;
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

  /// Attention that needs no other rank. One without queries or keys must not reach LibTorch's kernel, yet
  /// stay known to autograd: in backward this rank has to take part like every other.
  static at::Tensor local(const Attention& call, const NextAttention& next) {
    if (call.query.numel() > 0 && call.key.numel() > 0) return next(call);
    std::vector<at::Tensor> inputs{call.query, call.key, call.value}, zeros;
    if (call.mask) inputs.push_back(*call.mask);
    for (auto& x : inputs) zeros.push_back(at::zeros({1}, x.options()).expand(x.sizes()));
    return linear_map(
        inputs, [&](auto&&) { return std::vector{attention_with_lse(call).out}; },
        [zeros](auto&&) { return zeros; })[0];
  }

  at::Tensor split_attention(Attention call, const NextAttention& next, int64_t total) {
    auto place = layout(total);
    const auto ring = options_.ring.rank();
    const auto& lengths = place.lengths(ring);
    check(call, total);
    auto shape = call.query.sizes().vec();
    auto four = [](const at::Tensor& x) {
      return x.dim() == 4 ? x : x.dim() == 3 ? x.unsqueeze(0) : x.flatten(0, x.dim() - 4);
    };
    call.query = four(call.query), call.key = four(call.key), call.value = four(call.value);

    auto around_the_ring = [&](Attention all) {
      if (all.mask && all.mask->dim() >= 2 && all.mask->size(-2) > 1)
        all.mask = take(*all.mask, -2, place.groups()[ring]);
      return options_.ring.size() == 1 ? local(all, next)
                                       : ring_attention(options_.ring, all, place.groups());
    };
    auto out = options_.ulysses.size() == 1
                   ? around_the_ring(call)
                   : ulysses_attention(options_.ulysses, call, lengths, around_the_ring);
    shape.back() = out.size(-1);
    return out.dim() == static_cast<int64_t>(shape.size()) ? out : out.reshape(shape);
  }

  static void check(const Attention& call, int64_t total) {
    if (call.dropout > 0)
      throw Error(
          "SequenceParallel: attention with dropout cannot be split exactly; call eval(), or set its dropout "
          "to 0");
    if (call.query.dim() < 3)
      throw Error(fmt::format("SequenceParallel: attention without a head dimension, {}, cannot be split",
                              call.query.sizes()));
    if (!call.mask) return;
    if (call.query.dim() > 4)
      throw Error(
          fmt::format("SequenceParallel: a masked attention of {} cannot be split; give it as [batch, heads, "
                      "tokens, channels]",
                      call.query.sizes()));
    bool columns_whole = call.mask->size(-1) == total;
    bool rows_whole = call.mask->dim() < 2 || call.mask->size(-2) == 1 || call.mask->size(-2) == total;
    if (!columns_whole || !rows_whole)
      throw Error(
          fmt::format("SequenceParallel: a mask {} for {} tokens; give the mask whole, it is cut inside",
                      call.mask->sizes(), total));
  }

  SequenceParallelOptions options_;
  Follow follow_{"SequenceParallel", kRemedy};
  Path path_;                                   // of this pass
  std::vector<int64_t> shapes_;                 // of its arguments
  std::map<std::vector<int64_t>, Path> known_;  // of earlier ones
  const Path* known_path_ = nullptr;            // the one that this pass keeps to, without looking
  std::optional<Met> met_;                      // the attention at hand
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

void SequenceRegion::rethrow() { Scope::rethrow(); }

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

std::shared_ptr<SequenceEngine> make_sequence_engine(SequenceParallelOptions options) {
  return std::make_shared<SequenceEngine>(std::move(options));
}

bool is_alone(const SequenceEngine& engine) { return engine.size() == 1; }

}  // namespace detail
}  // namespace wanpar
