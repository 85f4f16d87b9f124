#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <span>
#include <vector>

#include "module/split/split_place.hpp"

namespace wanpar {

/// What becomes of keys that are split as the queries are, in a dimension that is merged with others, so that
/// each rank has many short ranges of it.
enum class MergedKeys { gathered, attended_over };

/// How an attention of which some inputs are split is carried, and what is to be done to its inputs before,
/// by their numbers.
struct AttentionPlan {
  enum Kind {
    replicated,       ///< on every rank
    sharded_keys,     ///< the keys are split as the queries are, and are attended over
    sharded_queries,  ///< the queries are split, the keys are whole
    sharded_batch,    ///< samples or heads are split, each of which attends for itself
  };
  Kind kind;
  std::vector<size_t> to_unshard;  ///< inputs that are wanted whole
  struct SlicedInput {
    size_t input;
    SplitPlacement place;
  };
  std::vector<SlicedInput> to_slice;    ///< whole inputs of which each rank is to have its part
  std::optional<SplitPlacement> place;  ///< of the queries, or of what is apart
  int64_t from_end = 0;                 ///< its dimension in all of them and in the result
};

/// Told by where queries, keys, values and mask lie: keys that are split otherwise than the queries are
/// wanted whole, as is any mask that is split.
AttentionPlan plan_attention(std::span<const at::Tensor> inputs, MergedKeys merged);

}  // namespace wanpar
