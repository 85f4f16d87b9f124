#pragma once
#include <c10/core/DispatchKeySet.h>

namespace wanpar {

// The dispatch keys by which strategies enter modules that know nothing of them; the build says which.

/// Above autograd and autocast: attention is met by it, and every other operator falls through it at no cost.
constexpr auto kAttention = c10::DispatchKey::WANPAR_ATTENTION_KEY;
/// Above autograd and autocast: meets every operator, and is on where a handler watches.
constexpr auto kOperators = c10::DispatchKey::WANPAR_OPERATORS_KEY;
/// Below autograd: every operator on a split tensor, or on a shard.
constexpr auto kSplit = c10::DispatchKey::WANPAR_SPLIT_KEY;

static_assert(kAttention > kOperators);  // an attention is not first met as any operator
static_assert(kSplit < c10::DispatchKey::ADInplaceOrView);

}  // namespace wanpar
