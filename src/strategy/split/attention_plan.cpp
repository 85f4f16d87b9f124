#include "strategy/split/attention_plan.hpp"

#include <algorithm>

#include "module/split/split_tensor.hpp"

namespace wanpar {
namespace {

constexpr int64_t kTokens = 2;  // the token dimension, from the end

int64_t from_end(const at::Tensor& x, const SplitPlacement& place) { return x.dim() - place.dim; }

/// Whether two tensors are sharded alike along the same dimension.
bool is_alike(const at::Tensor& x, const SplitPlacement& a, const at::Tensor& y, const SplitPlacement& b) {
  return from_end(x, a) == from_end(y, b) && a.is_like(b);
}

AttentionPlan all_replicated(std::span<const at::Tensor> inputs) {
  AttentionPlan plan{AttentionPlan::replicated, {}, {}, {}};
  for (size_t i = 0; i < inputs.size(); ++i)
    if (placement_of(inputs[i])) plan.to_unshard.push_back(i);
  return plan;
}

}  // namespace

AttentionPlan plan_attention(std::span<const at::Tensor> inputs, MergedKeys merged) {
  AttentionPlan plan{AttentionPlan::replicated, {}, {}, {}};
  auto &query = inputs[0], &key = inputs[1], &value = inputs[2];
  if (query.dim() < 2 || key.dim() < 2 || value.dim() < 2) return all_replicated(inputs);
  auto *queries = placement_of(query), *keys = placement_of(key), *values = placement_of(value);
  const bool has_mask = inputs.size() > 3;
  auto unshard_keys = [&] {
    if (keys) plan.to_unshard.push_back(1);
    if (values) plan.to_unshard.push_back(2);
    keys = values = nullptr;
  };
  if (has_mask && placement_of(inputs[3])) plan.to_unshard.push_back(3);
  if (keys && values && !is_alike(key, *keys, value, *values)) unshard_keys();
  if (!keys != !values) unshard_keys();

  if (keys && from_end(key, *keys) == kTokens) {
    bool is_over = queries && is_alike(query, *queries, key, *keys) &&
                   (merged == MergedKeys::attended_over || !queries->is_merged());
    if (is_over) {
      plan.kind = AttentionPlan::sharded_keys, plan.place = *queries, plan.from_end = kTokens;
      return plan;
    }
    unshard_keys();
  }
  if (!queries && !keys) return plan;
  if (queries && !keys && from_end(query, *queries) == kTokens) {
    plan.kind = AttentionPlan::sharded_queries, plan.place = *queries, plan.from_end = kTokens;
    return plan;
  }

  // The remaining cases are sharded along samples or heads.
  const auto& split = queries ? *queries : *keys;
  const auto along = queries ? from_end(query, split) : from_end(key, split);
  if (along <= kTokens || (queries && keys && !is_alike(query, *queries, key, *keys)))
    return all_replicated(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto& x = inputs[i];
    const auto dim = x.dim() - along;
    bool is_unsharded = std::count(plan.to_unshard.begin(), plan.to_unshard.end(), i);
    if ((placement_of(x) && !is_unsharded) || dim < 0) continue;
    if (is_unsharded) return all_replicated(inputs);
    if (x.size(dim) == split.global_extent() && x.size(dim) != 1)
      plan.to_slice.push_back({i, split.at(dim)});
    else if (x.size(dim) != 1)
      return all_replicated(inputs);
  }
  plan.kind = AttentionPlan::sharded_batch, plan.place = split, plan.from_end = along;
  return plan;
}

}  // namespace wanpar
