#pragma once
#include <optional>
#include <span>
#include <vector>

#include "module/follow/rules.hpp"

namespace wanpar {

/// What became of an attention: taken over, or left to this rank alone.
struct Met {
  std::vector<int64_t> query, key;  // shapes
  std::optional<SplitPlace> over;   // the split that its keys stem from, and is attended over
  std::optional<SplitPlace> rows;   // the split that its queries alone stem from: the keys are whole

  bool operator==(const Met&) const = default;
};

/// What is to be done to an attention's inputs, by their numbers, before it can be met.
struct AttentionNeeds {
  std::vector<size_t> whole;   // to be gathered
  std::vector<CutInput> cuts;  // to be cut, where they have one entry for each sample that is split
};

/// Told by where queries, keys, values and mask stem from: keys that are split otherwise than the queries are
/// wanted whole, as is any mask that is split.
AttentionNeeds what_attention_needs(const Follow& follow, std::span<const at::Tensor> inputs);

/// What kind of attention this is, its needs met.
Met meet(const Follow& follow, std::span<const at::Tensor> inputs);

}  // namespace wanpar
