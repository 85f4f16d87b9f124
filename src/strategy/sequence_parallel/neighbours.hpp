#pragma once
#include <wanpar/module/interceptor.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "module/follow/follow.hpp"
#include "strategy/sequence_parallel/token_layout.hpp"

namespace wanpar {

/// A convolution along split tokens, each step of which is one token.
struct SplitConvolution {
  SplitPlace place;
  int64_t padding;  ///< in front; behind as well, and one more for "same" with an even kernel
  int64_t reach;    ///< how many tokens behind its first one a result looks at
  int64_t total;    ///< how many results there are
};

/// None for any other operator.
std::optional<SplitConvolution> split_convolution(const Follow& follow, const Operator& op);

/// Who computes which results, and what of its neighbours' tokens that takes.
struct ConvolvedShares {
  struct Share {
    int64_t skipped;  ///< of the tokens with neighbours, in front
    int64_t needed;
  };
  std::vector<int64_t> lengths;  ///< results of each rank
  std::vector<Share> of_rank;
  int64_t left = 0, right = 0;  ///< neighbours, as many for every rank
};
ConvolvedShares convolved_shares(const SplitConvolution& convolution, const TokenLayout& layout);

/// The convolution of tokens that have their padding already.
std::function<at::Tensor(const Tensors&)> without_padding(const Operator& op, const SplitConvolution& c);

}  // namespace wanpar
