#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>
#include <optional>
#include <unordered_set>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "module/follow.hpp"
#include "strategy/ring.hpp"
#include "strategy/ulysses.hpp"

namespace wanpar {
namespace {

const char* kRemedy =
    "call at::scaled_dot_product_attention instead, or keep this part outside split_sequence and "
    "gather_sequence";

/// Operators that multiply two tensors: with both from the split sequence they mix tokens, as attention
/// written out does.
const std::unordered_set<std::string> kProducts{
    "aten::bmm",    "aten::baddbmm", "aten::matmul", "aten::mm",  "aten::einsum", "aten::tensordot",
    "aten::linear", "aten::addmm",   "aten::addbmm", "aten::dot", "aten::inner"};

/// Attention that is not scaled_dot_product_attention.
const std::unordered_set<std::string> kFusedAttention{"aten::_native_multi_head_attention",
                                                      "aten::_transformer_encoder_layer_fwd",
                                                      "aten::_scaled_dot_product_flash_attention_for_cpu",
                                                      "aten::_scaled_dot_product_flash_attention",
                                                      "aten::_scaled_dot_product_efficient_attention",
                                                      "aten::_scaled_dot_product_cudnn_attention",
                                                      "aten::_scaled_dot_product_attention_math"};

}  // namespace

/// One rank's side of the strategy: knows how the tokens are split, and takes over attention over them.
class SequenceEngine : public Handler {
 public:
  explicit SequenceEngine(SequenceParallelOptions options) : options_(std::move(options)) {}

  const SequenceParallelOptions& options() const { return options_; }
  int size() const { return options_.ring.size() * options_.ulysses.size(); }

  void begin() {
    splits_.clear();
    attentions_ = 0;
  }

  void end() { follow_.clear(); }

  /// To be asked before the result is gathered: was this a split forward that may be believed?
  void check_region() const {
    if (splits_.empty())
      throw Error(
          "SequenceParallel: nothing was split; name the token arguments in .split, or call split_sequence "
          "in the module");
    if (attentions_ == 0)
      throw Error(
          fmt::format("SequenceParallel: no attention over the split tokens was met, so the result would be "
                      "that of {} separate sequences; {}",
                      size(), kRemedy));
  }

  at::Tensor cut(const at::Tensor& x, int64_t dim) {
    if (dim < -x.dim() || dim >= x.dim())
      throw Error(fmt::format("SequenceParallel: dimension {} of a tensor with {} dimensions cannot be split",
                              dim, x.dim()));
    auto total = x.size(dim);
    auto known = std::find(splits_.begin(), splits_.end(), total);
    if (known == splits_.end()) known = splits_.insert(known, total);
    auto sizes = even_sizes(total, size());
    auto begin = std::accumulate(sizes.begin(), sizes.begin() + place(), int64_t{0});
    auto part = x.narrow(dim, begin, sizes[place()]);
    follow_.mark(part, static_cast<int>(known - splits_.begin()));
    return part;
  }

  at::Tensor gather(const at::Tensor& x, int64_t dim) {
    check_region();
    auto split = follow_.of(x);
    if (split < 0)
      throw Error("SequenceParallel: what is to be gathered does not stem from one split sequence");
    auto lengths = even_sizes(splits_[split], size());
    if (x.size(dim) != lengths[place()])
      throw Error(
          fmt::format("SequenceParallel: the result has {} elements along dimension {} where this rank holds "
                      "{} tokens; name the token dimension in .gather",
                      x.size(dim), dim, lengths[place()]));
    auto all = options_.ulysses.all_gather(x, dim, own_group(lengths)).get();
    return options_.ring.all_gather(std::move(all), dim, by_group(lengths)).get();
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

  void before(const Operator& op) override {
    if (kFusedAttention.contains(op.name) && follow_.of(op.inputs) != Follow::kNone)
      throw Error(
          fmt::format("SequenceParallel: {} attends over the split tokens inside one fused operator; {} (in "
                      "Python: torch.backends.mha.set_fastpath_enabled(False) "
                      "before tracing)",
                      op.name, kRemedy));
    if (!kProducts.contains(op.name)) return;
    auto from_split = std::count_if(op.inputs.begin(), op.inputs.end(),
                                    [&](auto& x) { return follow_.of(x) != Follow::kNone; });
    if (from_split >= 2)
      throw Error(
          fmt::format("SequenceParallel: {} multiplies two tensors of the split sequence, as attention "
                      "written out as bmm, softmax, bmm does "
                      "(torch::nn::MultiheadAttention); {}",
                      op.name, kRemedy));
  }

  void after(const Operator& op, std::span<const at::Tensor> outputs) override {
    auto split = follow_.of(op.inputs);
    if (split == Follow::kNone) return;
    for (auto& output : outputs) follow_.mark(output, split);
  }

  at::Tensor attention(const Attention& call, const NextAttention& next) override {
    auto queries = follow_.of(call.query), keys = follow_.of(call.key), values = follow_.of(call.value);
    if (keys == Follow::kNone && values == Follow::kNone) return local(call, next);
    if (queries != keys || keys != values || queries == Follow::kMixed)
      throw Error(
          "SequenceParallel: an attention whose queries, keys and values do not all stem from one split "
          "sequence cannot be split; " +
          std::string(kRemedy));
    ++attentions_;
    return split_attention(call, next, splits_[queries]);
  }

 private:
  /// This rank among all that hold tokens, ulysses fastest.
  int place() const { return options_.ring.rank() * options_.ulysses.size() + options_.ulysses.rank(); }

  /// The tokens of the ranks of this ulysses group, and of each ulysses group along the ring.
  std::vector<int64_t> own_group(const std::vector<int64_t>& lengths) const {
    auto first = lengths.begin() + options_.ring.rank() * options_.ulysses.size();
    return {first, first + options_.ulysses.size()};
  }
  std::vector<int64_t> by_group(const std::vector<int64_t>& lengths) const {
    std::vector<int64_t> groups;
    for (int r = 0; r < options_.ring.size(); ++r) {
      auto first = lengths.begin() + r * options_.ulysses.size();
      groups.push_back(std::accumulate(first, first + options_.ulysses.size(), int64_t{0}));
    }
    return groups;
  }

  /// Attention to keys that every rank holds whole; a rank without queries must not reach LibTorch's kernel.
  static at::Tensor local(const Attention& call, const NextAttention& next) {
    bool empty = call.query.numel() == 0 || call.key.numel() == 0;
    return empty ? attention_with_lse(call).out : next(call);
  }

  at::Tensor split_attention(Attention call, const NextAttention& next, int64_t total) {
    auto lengths = even_sizes(total, size());
    check(call, lengths[place()], total);
    auto shape = call.query.sizes().vec();
    auto four = [](const at::Tensor& x) {
      return x.dim() == 4 ? x : x.dim() == 3 ? x.unsqueeze(0) : x.flatten(0, x.dim() - 4);
    };
    call.query = four(call.query), call.key = four(call.key), call.value = four(call.value);

    auto groups = by_group(lengths);
    auto around_the_ring = [&](Attention all) {
      if (all.mask && all.mask->dim() >= 2 && all.mask->size(-2) > 1) {
        auto begin = std::accumulate(groups.begin(), groups.begin() + options_.ring.rank(), int64_t{0});
        all.mask = all.mask->narrow(-2, begin, groups[options_.ring.rank()]);
      }
      if (options_.ring.size() == 1) return local(all, next);
      return ring_attention(options_.ring, std::move(all), groups);
    };
    auto out = options_.ulysses.size() == 1
                   ? around_the_ring(call)
                   : ulysses_attention(options_.ulysses, call, own_group(lengths), around_the_ring);
    shape.back() = out.size(-1);
    return out.dim() == static_cast<int64_t>(shape.size()) ? out : out.reshape(shape);
  }

  void check(const Attention& call, int64_t length, int64_t total) const {
    if (call.dropout > 0)
      throw Error(
          "SequenceParallel: attention with dropout cannot be split exactly; call eval(), or set its dropout "
          "to 0");
    if (at::GradMode::is_enabled() &&
        (call.query.requires_grad() || call.key.requires_grad() || call.value.requires_grad()))
      throw Error(
          "SequenceParallel: gradients do not flow through a split attention; run under NoGradGuard or "
          "InferenceMode");
    if (call.query.dim() < 3)
      throw Error(fmt::format("SequenceParallel: attention without a head dimension, {}, cannot be split",
                              call.query.sizes()));
    if (call.query.size(-2) != length || call.key.size(-2) != length)
      throw Error(
          fmt::format("SequenceParallel: an attention of {} queries and {} keys, where this rank holds {} "
                      "tokens: tokens were moved, dropped or joined with others; {}",
                      call.query.size(-2), call.key.size(-2), length, kRemedy));
    if (!call.mask) return;
    if (call.query.dim() > 4)
      throw Error(
          fmt::format("SequenceParallel: a masked attention of {} cannot be split; give it as [batch, heads, "
                      "tokens, channels]",
                      call.query.sizes()));
    bool columns_whole = call.mask->size(-1) == total;
    bool rows_whole = call.mask->dim() < 2 || call.mask->size(-2) == 1 || call.mask->size(-2) == total;
    if (!columns_whole || !rows_whole || follow_.of(*call.mask) != Follow::kNone)
      throw Error(
          fmt::format("SequenceParallel: a mask {} for {} tokens; give the mask whole, it is cut inside",
                      call.mask->sizes(), total));
  }

  SequenceParallelOptions options_;
  std::vector<int64_t> splits_;  // the whole lengths of what has been split
  Follow follow_;
  int attentions_ = 0;
};

namespace detail {

struct SequenceRegion::State {
  explicit State(std::shared_ptr<SequenceEngine> e) : engine(std::move(e)) {
    engine->begin();
    scope.emplace(*engine);
  }
  ~State() { engine->end(); }
  std::shared_ptr<SequenceEngine> engine;
  std::optional<Scope> scope;
};

SequenceRegion::SequenceRegion(std::shared_ptr<SequenceEngine> engine, size_t arguments) {
  for (auto& cut : engine->options().split)
    if (cut.arg < 0 || cut.arg >= static_cast<int64_t>(arguments))
      throw Error(fmt::format("SequenceParallel: .split names argument {}, but the module was called with {}",
                              cut.arg, arguments));
  state_ = std::make_unique<State>(std::move(engine));
}

SequenceRegion::~SequenceRegion() = default;

void SequenceRegion::rethrow() { Scope::rethrow(); }

at::Tensor SequenceRegion::part(size_t arg, const at::Tensor& x) {
  for (auto& cut : state_->engine->options().split)
    if (cut.arg == static_cast<int64_t>(arg)) return state_->engine->cut(x, cut.dim);
  return x;
}

at::Tensor SequenceRegion::leave(at::Tensor result) {
  state_->scope.reset();
  auto& engine = *state_->engine;
  auto& options = engine.options();
  if (!options.gather.empty())
    result = engine.gather(result, options.gather[0].dim);
  else if (!options.split.empty())
    result = engine.gather(result, options.split[0].dim);
  engine.check_region();
  return result;
}

std::shared_ptr<SequenceEngine> make_sequence_engine(SequenceParallelOptions options) {
  return std::make_shared<SequenceEngine>(std::move(options));
}

bool is_alone(const SequenceEngine& engine) { return engine.size() == 1; }

}  // namespace detail
}  // namespace wanpar
