#pragma once
#include <c10/core/DispatchKeySet.h>

namespace wanpar {

// The dispatch keys by which strategies intercept operators; chosen by the build.

/// Above autograd and autocast: intercepts attention only; all other operators fall through at no cost.
constexpr auto kAttention = c10::DispatchKey::WANPAR_ATTENTION_KEY;
/// Above autograd and autocast: intercepts every operator; active while a handler intercepts_operators().
constexpr auto kOperators = c10::DispatchKey::WANPAR_OPERATORS_KEY;
/// Below autograd: every operator on a split tensor, or on a shard.
constexpr auto kSplit = c10::DispatchKey::WANPAR_SPLIT_KEY;

static_assert(kAttention > kOperators);  // attention is intercepted before it could be as a general operator
static_assert(kSplit < c10::DispatchKey::ADInplaceOrView);

}  // namespace wanpar
