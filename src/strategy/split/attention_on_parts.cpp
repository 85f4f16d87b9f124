#include "strategy/split/attention_on_parts.hpp"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include <wanpar/extend/module/linear_map.hpp>
#include "module/attention_parts.hpp"
#include "module/check_in_backward.hpp"
#include "module/split/split_tensor.hpp"

namespace wanpar {
namespace {

/// Inputs with different numbers of dimensions: the sharded dimension is counted from the front in each
/// tensor.
[[noreturn]] void refuse_dims(const std::string& who, const Attention& call) {
  throw UsageError(
      fmt::format("{}: the queries of an attention are {}, its keys {} and its values {}; give them as many "
                  "dimensions",
                  who, call.query.sizes(), call.key.sizes(), call.value.sizes()));
}

/// The mask, restricted to `seen`.
at::Tensor under(const at::Tensor& seen, const std::optional<at::Tensor>& mask) {
  if (!mask) return seen;
  if (mask->scalar_type() == at::kBool) return mask->logical_and(seen);
  return mask->masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
}

/// Checks in backward that saved split tensors are unmodified: their shards have no version counters of their
/// own.
class Unwritten {
 public:
  void keep(const at::Tensor& x) {
    if (!as_split(x) || x.is_inference()) return;
    auto& counter = x.unsafeGetTensorImpl()->version_counter();
    kept_.emplace_back(counter, counter.current_version());
  }
  void check(const std::string& who) const {
    for (auto& [counter, version] : kept_)
      if (counter.current_version() != version)
        throw UsageError(
            who +
            ": queries, keys, values or the result of an attention have been written to in place "
            "since, and its gradient needs them; let that operator make a new tensor");
  }

 private:
  std::vector<std::pair<c10::VariableVersion, uint32_t>> kept_;
};

/// The geometry of LibTorch's kernels: [batch, heads, tokens, channels] with memory order [batch, tokens,
/// heads, channels].
SplitTensor::Geometry geometry_of(const at::Tensor& part, const SplitPlacement& place) {
  at::DimVector sizes(part.sizes());
  sizes[place.dim] = place.global_extent();
  const auto tokens = part.dim() - 2, heads = part.dim() - 3;
  if (heads < 0) return {sizes, c10::contiguous_strides(sizes), 0};
  auto in_memory = sizes;
  std::swap(in_memory[tokens], in_memory[heads]);
  auto strides = c10::contiguous_strides(in_memory);
  std::swap(strides[tokens], strides[heads]);
  return {sizes, strides, 0};
}

void check_attention_over(const std::string& who, const Attention& call, int64_t total) {
  if (call.dropout > 0)
    throw UsageError(
        who + ": attention with dropout cannot be split exactly; call eval(), or set its dropout to 0");
  if (call.query.dim() < 3)
    throw UsageError(
        fmt::format("{}: attention without a head dimension, {}, cannot be split", who, call.query.sizes()));
  if (call.key.dim() != call.query.dim() || call.value.dim() != call.query.dim()) refuse_dims(who, call);
  auto mask = prepared(call).mask;
  if (mask && !fits(*mask, total, total))
    throw UsageError(fmt::format("{}: a mask {} for {} tokens; give the mask whole, it is cut inside", who,
                                 call.mask->sizes(), total));
}

}  // namespace

at::Tensor local_attention(const std::string& who, const Attention& given) {
  auto call = prepared(given);
  if (call.mask && !fits(*call.mask, call.query.size(-2), call.key.size(-2)))
    throw UsageError(fmt::format("{}: a mask {} for {} queries and {} keys", who, given.mask->sizes(),
                                 call.query.size(-2), call.key.size(-2)));
  if (call.query.numel() > 0 && call.key.numel() > 0) return attend(call);
  auto inputs = call.inputs(), zeros = inputs;
  for (auto& x : zeros) x = at::zeros({1}, x.options()).expand(x.sizes());
  return linear_map(
      inputs, [&](auto&&) { return std::vector{attention_part(call).out}; },
      [zeros](auto&&) { return zeros; })[0];
}

at::Tensor attention_between(const std::string& who, const Between& tokens, Attention call) {
  if (std::max(call.key.dim(), call.value.dim()) > call.query.dim()) refuse_dims(who, call);
  auto numbers = [&](int64_t all, const Ranges& some) {
    return select_ranges(at::arange(all, call.query.options().dtype(at::kLong)), 0, some);
  };
  auto& mask = call.mask = prepared(call).mask;
  if (mask && !fits(*mask, tokens.all_queries, tokens.all_keys))
    throw UsageError(
        fmt::format("{}: a mask {} for {} queries and {} keys; give the mask whole, it is cut inside", who,
                    mask->sizes(), tokens.all_queries, tokens.all_keys));
  const auto rows = numbers(tokens.all_queries, tokens.queries);
  if (mask && mask->size(-2) != 1) mask = mask->index_select(-2, rows);
  if (mask && mask->size(-1) != 1) mask = select_ranges(*mask, -1, tokens.keys);
  // Query i attends to keys 0 to i.
  if (std::exchange(call.causal, false))
    mask = under(numbers(tokens.all_keys, tokens.keys).le(rows.unsqueeze(1)), mask);
  return local_attention(who, call);
}

at::Tensor attention_on_parts(const Attention& given, const std::shared_ptr<const SplitGroup>& group,
                              MergedKeys merged, const OverParts& over) {
  RECORD_USER_SCOPE("attention over ranks");
  auto inputs = given.inputs();
  for (auto& x : inputs)
    if (as_split(x) && !placement_of(x)) x = unsplit(x);
  const auto plan = plan_attention(inputs, merged);
  for (auto i : plan.to_unshard) inputs[i] = unsplit(inputs[i]);
  if (plan.kind == AttentionPlan::replicated) return attend(given.on(inputs));
  auto kept = std::make_shared<Unwritten>();
  for (auto& x : inputs) kept->keep(x);
  for (auto& sliced : plan.to_slice) inputs[sliced.input] = split(inputs[sliced.input], sliced.place, group);
  for (auto& x : inputs)
    x = placement_of(x) ? part_in_graph(x)
                        : linear_map(
                              x, [](const at::Tensor& same) { return same; },
                              [group](const at::Tensor& gradient) { return group->sum(gradient); });
  const auto call = given.on(inputs);
  at::Tensor out;
  switch (plan.kind) {
    case AttentionPlan::sharded_keys:
      check_attention_over(group->name(), call, plan.place->global_extent());
      out = over(*plan.place, call);
      break;
    case AttentionPlan::sharded_queries:
      out = attention_between(group->name(),
                              {plan.place->elements().of(plan.place->rank),
                               plan.place->global_extent(),
                               {{0, call.key.size(-2)}},
                               call.key.size(-2)},
                              call);
      break;
    default:
      out = local_attention(group->name(), call);
  }
  const auto place = plan.place->at(out.dim() - plan.from_end);
  auto result = of_parts(out, place, group, geometry_of(out, place));
  kept->keep(result);
  check_in_backward(result, [kept, group] { kept->check(group->name()); });
  return result;
}

}  // namespace wanpar
