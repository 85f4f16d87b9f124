#pragma once
#include <vector>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// Along split tokens, the results of an operator each of which looks at `reach` tokens behind its first one.
/// The first result's lies `padding` before the sequence, and that of each further one `stride` behind.
struct Convolved {
  int64_t padding, reach, stride;
  int64_t results;  ///< how many there are
};

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
ConvolvedShares convolved_shares(const Convolved& convolution, const TokenLayout& layout);

}  // namespace wanpar
