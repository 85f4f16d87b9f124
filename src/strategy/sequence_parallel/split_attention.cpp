#include "strategy/sequence_parallel/split_attention.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <wanpar/core/error.hpp>

#include "module/attention_parts.hpp"
#include "module/check_in_backward.hpp"
#include "module/linear_map.hpp"
#include "module/split/split_tensor.hpp"
#include "strategy/sequence_parallel/met_attention.hpp"
#include "strategy/sequence_parallel/ring.hpp"
#include "strategy/sequence_parallel/sequence_group.hpp"
#include "strategy/sequence_parallel/ulysses.hpp"

namespace wanpar {
namespace {

/// Where the split dimension lies is counted from the front, in each tensor and in the result.
[[noreturn]] void refuse_dims(const Attention& call) {
  throw Error(
      fmt::format("SequenceParallel: the queries of an attention are {}, its keys {} and its values {}; give "
                  "them as many dimensions",
                  call.query.sizes(), call.key.sizes(), call.value.sizes()));
}

/// The mask, attending to nothing but what is `seen` too.
at::Tensor under(const at::Tensor& seen, const std::optional<at::Tensor>& mask) {
  if (!mask) return seen;
  if (mask->scalar_type() == at::kBool) return mask->logical_and(seen);
  return mask->masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
}

/// Attention of all tokens to all, in the order in which the ranks hold them: a mask goes by their own.
at::Tensor whole_attention(const TokenLayout& place, Attention call) {
  bool goes_by_order = call.mask || call.causal;
  if (!goes_by_order || place.is_in_order()) return local_attention(call);
  for (auto* x : {&call.query, &call.key, &call.value}) *x = place.in_order(*x, 2);
  return place.by_rank(local_attention(call), 2);
}

/// What a backward is to find as it was: split tensors, whose parts have no versions of their own.
class Unwritten {
 public:
  void keep(const at::Tensor& x) {
    if (!as_split(x) || x.is_inference()) return;
    auto& counter = x.unsafeGetTensorImpl()->version_counter();
    kept_.emplace_back(counter, counter.current_version());
  }
  void check() const {
    for (auto& [counter, version] : kept_)
      if (counter.current_version() != version)
        throw Error(
            "SequenceParallel: queries, keys, values or the result of an attention have been written to in "
            "place "
            "since, and its gradient needs them; let that operator make a new tensor");
  }

 private:
  std::vector<std::pair<c10::VariableVersion, uint32_t>> kept_;
};

/// LibTorch's kernels give [batch, heads, tokens, channels] as [batch, tokens, heads, channels] lie in
/// memory.
SplitTensor::Geometry geometry_of(const at::Tensor& part, const SplitPlace& place) {
  at::DimVector sizes(part.sizes());
  sizes[place.dim] = place.whole_extent();
  const auto tokens = part.dim() - 2, heads = part.dim() - 3;
  if (heads < 0) return {sizes, c10::contiguous_strides(sizes), 0};
  auto in_memory = sizes;
  std::swap(in_memory[tokens], in_memory[heads]);
  auto strides = c10::contiguous_strides(in_memory);
  std::swap(strides[tokens], strides[heads]);
  return {sizes, strides, 0};
}

}  // namespace

void check_split_attention(const Attention& call, int64_t total) {
  if (call.dropout > 0)
    throw Error(
        "SequenceParallel: attention with dropout cannot be split exactly; call eval(), or set its dropout "
        "to 0");
  if (call.query.dim() < 3)
    throw Error(fmt::format("SequenceParallel: attention without a head dimension, {}, cannot be split",
                            call.query.sizes()));
  if (call.key.dim() != call.query.dim() || call.value.dim() != call.query.dim()) refuse_dims(call);
  auto mask = prepared(call).mask;
  if (mask && !fits(*mask, total, total))
    throw Error(
        fmt::format("SequenceParallel: a mask {} for {} tokens; give the mask whole, it is cut inside",
                    call.mask->sizes(), total));
}

at::Tensor local_attention(const Attention& given) {
  auto call = prepared(given);
  if (call.mask && !fits(*call.mask, call.query.size(-2), call.key.size(-2)))
    throw Error(fmt::format("SequenceParallel: a mask {} for {} queries and {} keys", given.mask->sizes(),
                            call.query.size(-2), call.key.size(-2)));
  if (call.query.numel() > 0 && call.key.numel() > 0) return attend(call);
  auto inputs = call.inputs(), zeros = inputs;
  for (auto& x : zeros) x = at::zeros({1}, x.options()).expand(x.sizes());
  return linear_map(
      inputs, [&](auto&&) { return std::vector{attention_part(call).out}; },
      [zeros](auto&&) { return zeros; })[0];
}

at::Tensor attention_of_rows(const SplitPlace& place, Attention call) {
  if (std::max(call.key.dim(), call.value.dim()) > call.query.dim()) refuse_dims(call);
  const auto all = place.whole_extent(), keys = call.key.size(-2);
  auto numbered = [&](int64_t n) { return at::arange(n, call.query.options().dtype(at::kLong)); };
  auto rows = take(numbered(all), 0, place.elements().of(place.rank));
  auto& mask = call.mask = prepared(call).mask;
  if (mask && !fits(*mask, all, keys))
    throw Error(fmt::format(
        "SequenceParallel: a mask {} for {} queries and {} keys; give the mask whole, it is cut inside",
        mask->sizes(), all, keys));
  if (mask && mask->size(-2) != 1) mask = mask->index_select(-2, rows);
  // Query i attends to keys 0 to i.
  if (std::exchange(call.causal, false)) mask = under(numbered(keys).le(rows.unsqueeze(1)), mask);
  return local_attention(call);
}

at::Tensor split_attention(const SequenceParallelOptions& options, const TokenLayout& place, Attention call) {
  const auto ring = options.ring.rank();
  const auto& lengths = place.lengths(ring);
  call = prepared(std::move(call));
  auto shape = call.query.sizes().vec();
  call = with_one_batch(std::move(call));

  auto around_the_ring = [&](Attention all) {
    if (options.ring.size() == 1) return whole_attention(place, std::move(all));
    if (all.mask && all.mask->size(-2) > 1) all.mask = take(*all.mask, -2, place.groups()[ring]);
    return ring_attention(options.ring, std::move(all), place.groups());
  };
  auto out = options.ulysses.size() == 1 ? around_the_ring(call)
                                         : ulysses_attention(options.ulysses, call, lengths, around_the_ring);
  shape.back() = out.size(-1);
  return out.sizes() == shape ? out : out.reshape(shape);
}

at::Tensor SequenceGroup::attention(const Attention& given) const {
  exchanges("attention");
  const auto group = shared_from_this();
  auto inputs = given.inputs();
  for (auto& x : inputs)
    if (as_split(x) && !place_of(x)) x = unsplit(x);
  const auto met = meet(inputs);
  for (auto i : met.gathered) inputs[i] = unsplit(inputs[i]);
  if (met.kind == MetAttention::whole) return attend(given.on(inputs));
  auto kept = std::make_shared<Unwritten>();
  for (auto& x : inputs) kept->keep(x);
  for (auto& cut : met.cuts) inputs[cut.input] = split(inputs[cut.input], cut.place, group);
  for (auto& x : inputs)
    x = place_of(x) ? part_in_graph(x)
                    : linear_map(
                          x, [](const at::Tensor& same) { return same; },
                          [group](const at::Tensor& gradient) { return group->sum(gradient); });
  const auto call = given.on(inputs);
  at::Tensor out;
  switch (met.kind) {
    case MetAttention::over:
      check_split_attention(call, met.place->total());
      out = split_attention(options_, *met.place->layout, call);
      break;
    case MetAttention::rows:
      out = attention_of_rows(*met.place, call);
      break;
    default:
      out = local_attention(call);
  }
  const auto place = met.place->at(out.dim() - met.from_end);
  auto result = of_parts(out, place, group, geometry_of(out, place));
  kept->keep(result);
  check_in_backward(result, [kept] { kept->check(); });
  return result;
}

}  // namespace wanpar
