#include "strategy/sequence_parallel/met_attention.hpp"

#include <algorithm>

namespace wanpar {
namespace {

constexpr int64_t kTokens = 2;  // their dimension, counted from the end

int64_t from_end(const at::Tensor& x, const SplitPlace& place) { return x.dim() - place.dim; }

/// Whether two places are the same dimension of the same split.
bool is_alike(const at::Tensor& x, const SplitPlace& a, const at::Tensor& y, const SplitPlace& b) {
  auto moved = b;
  moved.dim = a.dim;
  return from_end(x, a) == from_end(y, b) && a == moved;
}

}  // namespace

AttentionNeeds what_attention_needs(const Follow& follow, std::span<const at::Tensor> inputs) {
  AttentionNeeds needs;
  auto &query = inputs[0], &key = inputs[1], &value = inputs[2];
  auto *queries = follow.of(query), *keys = follow.of(key), *values = follow.of(value);
  const bool has_mask = inputs.size() > 3;
  auto all_whole = [&] {
    needs = {};
    for (size_t i = 0; i < inputs.size(); ++i)
      if (follow.of(inputs[i])) needs.whole.push_back(i);
    return needs;
  };
  auto keys_whole = [&] {
    if (keys) needs.whole.push_back(1);
    if (values) needs.whole.push_back(2);
    keys = values = nullptr;
  };
  if (has_mask && follow.of(inputs[3])) needs.whole.push_back(3);
  if (keys && values && !is_alike(key, *keys, value, *values)) keys_whole();
  if (!keys != !values) keys_whole();

  if (keys && from_end(key, *keys) == kTokens) {
    bool is_over = queries && is_alike(query, *queries, key, *keys);
    if (is_over) return needs;
    keys_whole();
  }
  if (!queries && !keys) return needs;
  if (queries && !keys && from_end(query, *queries) == kTokens) return needs;

  // What is left is split along samples or heads, each of which attends for itself.
  auto& split = queries ? *queries : *keys;
  const auto along = queries ? from_end(query, split) : from_end(key, split);
  if (along <= kTokens || (queries && keys && !is_alike(query, *queries, key, *keys))) return all_whole();
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto& x = inputs[i];
    const auto dim = x.dim() - along;
    bool is_gathered = std::count(needs.whole.begin(), needs.whole.end(), i);
    if ((follow.of(x) && !is_gathered) || dim < 0) continue;
    if (is_gathered) return all_whole();
    if (x.size(dim) == split.whole_extent() && x.size(dim) != 1)
      needs.cuts.push_back({i, dim, split});
    else if (x.size(dim) != 1)
      return all_whole();
  }
  return needs;
}

Met meet(const Follow& follow, std::span<const at::Tensor> inputs) {
  Met met{inputs[0].sizes().vec(), inputs[1].sizes().vec(), {}, {}};
  auto *queries = follow.of(inputs[0]), *keys = follow.of(inputs[1]);
  if (!queries || from_end(inputs[0], *queries) != kTokens) return met;
  (keys ? met.over : met.rows) = *queries;
  return met;
}

}  // namespace wanpar
