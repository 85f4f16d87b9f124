#include "strategy/split/met_attention.hpp"

#include <algorithm>

#include "module/split/split_tensor.hpp"

namespace wanpar {
namespace {

constexpr int64_t kTokens = 2;  // their dimension, counted from the end

int64_t from_end(const at::Tensor& x, const SplitPlace& place) { return x.dim() - place.dim; }

/// Whether two tensors are split along the same dimension, alike.
bool is_alike(const at::Tensor& x, const SplitPlace& a, const at::Tensor& y, const SplitPlace& b) {
  return from_end(x, a) == from_end(y, b) && a.is_like(b);
}

MetAttention all_whole(std::span<const at::Tensor> inputs) {
  MetAttention met{MetAttention::whole, {}, {}, {}};
  for (size_t i = 0; i < inputs.size(); ++i)
    if (place_of(inputs[i])) met.gathered.push_back(i);
  return met;
}

}  // namespace

MetAttention meet(std::span<const at::Tensor> inputs, MergedKeys merged) {
  MetAttention met{MetAttention::whole, {}, {}, {}};
  auto &query = inputs[0], &key = inputs[1], &value = inputs[2];
  if (query.dim() < 2 || key.dim() < 2 || value.dim() < 2) return all_whole(inputs);
  auto *queries = place_of(query), *keys = place_of(key), *values = place_of(value);
  const bool has_mask = inputs.size() > 3;
  auto keys_whole = [&] {
    if (keys) met.gathered.push_back(1);
    if (values) met.gathered.push_back(2);
    keys = values = nullptr;
  };
  if (has_mask && place_of(inputs[3])) met.gathered.push_back(3);
  if (keys && values && !is_alike(key, *keys, value, *values)) keys_whole();
  if (!keys != !values) keys_whole();

  if (keys && from_end(key, *keys) == kTokens) {
    bool is_over = queries && is_alike(query, *queries, key, *keys) &&
                   (merged == MergedKeys::attended_over || !queries->is_merged());
    if (is_over) {
      met.kind = MetAttention::over, met.place = *queries, met.from_end = kTokens;
      return met;
    }
    keys_whole();
  }
  if (!queries && !keys) return met;
  if (queries && !keys && from_end(query, *queries) == kTokens) {
    met.kind = MetAttention::rows, met.place = *queries, met.from_end = kTokens;
    return met;
  }

  // What is left is split along samples or heads.
  const auto& split = queries ? *queries : *keys;
  const auto along = queries ? from_end(query, split) : from_end(key, split);
  if (along <= kTokens || (queries && keys && !is_alike(query, *queries, key, *keys)))
    return all_whole(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    auto& x = inputs[i];
    const auto dim = x.dim() - along;
    bool is_gathered = std::count(met.gathered.begin(), met.gathered.end(), i);
    if ((place_of(x) && !is_gathered) || dim < 0) continue;
    if (is_gathered) return all_whole(inputs);
    if (x.size(dim) == split.whole_extent() && x.size(dim) != 1)
      met.cuts.push_back({i, split.at(dim)});
    else if (x.size(dim) != 1)
      return all_whole(inputs);
  }
  met.kind = MetAttention::apart, met.place = split, met.from_end = along;
  return met;
}

}  // namespace wanpar
