#pragma once
#include <wanpar/extend/module/attention.hpp>

#include <functional>
#include <memory>
#include <string>

#include "module/split/split_group.hpp"
#include "strategy/split/met_attention.hpp"

namespace wanpar {

/// Attention of all tokens to all, of which each rank has the part that `place` gives it, by parts.
using OverParts = std::function<at::Tensor(const SplitPlacement& place, Attention call)>;

/// Attention some of whose inputs are split, with gradients for autograd; `over` carries it where keys are
/// split as the queries are. Throws Error for one that cannot be split exactly.
at::Tensor attention_on_parts(const Attention& call, const std::shared_ptr<const SplitGroup>& group,
                              MergedKeys merged, const OverParts& over);

/// Attention that needs no other rank. One without queries or keys must not reach LibTorch's kernel, yet
/// stay known to autograd: in backward this rank has to take part like every other. `who` begins errors.
at::Tensor local_attention(const std::string& who, const Attention& call);

/// Which of all queries, and which of all keys, an attention has.
struct Between {
  Ranges queries;
  int64_t all_queries;
  Ranges keys;
  int64_t all_keys;
};

/// Attention of these queries to these keys: a causal mask, and one given whole, are cut to their rows and
/// columns. Throws Error for a mask of other rows or columns.
at::Tensor attention_between(const std::string& who, const Between& tokens, Attention call);

}  // namespace wanpar
