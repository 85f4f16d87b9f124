#pragma once
#include <wanpar/extend/module/attention.hpp>

#include <functional>
#include <memory>
#include <string>

#include "module/split/split_group.hpp"
#include "strategy/split/attention_plan.hpp"

namespace wanpar {

/// Attention between tokens that are sharded with placement `place`, on local shards.
using OverParts = std::function<at::Tensor(const SplitPlacement& place, Attention call)>;

/// Attention with sharded inputs, differentiable; `over` computes it if keys are sharded like the queries.
/// Throws Error if it cannot be sharded exactly.
at::Tensor attention_on_parts(const Attention& call, const std::shared_ptr<const SplitGroup>& group,
                              MergedKeys merged, const OverParts& over);

/// Attention on local tensors. Without queries or keys it bypasses LibTorch's kernel, but stays in the
/// autograd graph: this rank must take part in the collectives of backward. `who` starts errors.
at::Tensor local_attention(const std::string& who, const Attention& call);

/// The global queries and keys that a local attention covers.
struct Between {
  Ranges queries;
  int64_t all_queries;
  Ranges keys;
  int64_t all_keys;
};

/// Attention of these queries to these keys: a causal or global mask is sliced to their rows and columns.
/// Throws Error for a mask of other extents.
at::Tensor attention_between(const std::string& who, const Between& tokens, Attention call);

}  // namespace wanpar
