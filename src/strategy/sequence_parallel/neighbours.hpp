#pragma once
#include <optional>

#include "module/follow/follow.hpp"

namespace wanpar {

/// A convolution along split tokens, of which it gives as many as it takes: each looks at `left` tokens
/// before it and `right` behind it, and the first and last ones of the sequence at zeros.
struct SplitConvolution {
  SplitPlace place;
  int64_t left, right;
};

/// None for any other operator, and for a convolution that would give tokens to other ranks than it has them
/// from (a stride, a padding that does not keep the length, a transposed one).
std::optional<SplitConvolution> split_convolution(const Follow& follow, const Operator& op);

}  // namespace wanpar
