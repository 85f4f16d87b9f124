#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "module/split/split_placement.hpp"

namespace wanpar {

/// What to do with keys that are sharded like the queries, but along a merged dimension, so that each rank
/// has many short ranges: gather them, or attend across ranks.
enum class MergedKeys { gathered, attended_over };

/// How to compute an attention with sharded inputs; inputs are given by their indices.
struct AttentionPlan {
  enum Kind {
    replicated,       ///< on full tensors, on every rank
    sharded_keys,     ///< queries and keys are sharded alike: attention across ranks
    sharded_queries,  ///< queries are sharded, keys replicated: local attention
    sharded_batch,    ///< samples or heads are sharded: local attention
  };
  Kind kind;
  std::vector<size_t> to_unshard;  ///< inputs to all-gather first
  struct SlicedInput {
    size_t input;
    SplitPlacement place;
  };
  std::vector<SlicedInput> to_slice;    ///< replicated inputs to slice
  std::optional<SplitPlacement> place;  ///< of the queries, or of samples or heads
  int64_t from_end = 0;                 ///< its dimension, from the end, in inputs and result
};

/// Plans by the placements of queries, keys, values and mask. Keys that are sharded differently from the
/// queries are gathered, and so is a sharded mask.
AttentionPlan plan_attention(std::span<const at::Tensor> inputs, MergedKeys merged);

}  // namespace wanpar
