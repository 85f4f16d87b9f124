#pragma once
#include <vector>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// A sliding window along sharded tokens: each result depends on its first token and the `reach` tokens after
/// it. The first window starts `padding` before the sequence, each further one `stride` later.
struct Convolved {
  int64_t padding, reach, stride;
  int64_t results;  ///< number of windows
};

/// How the results are sharded, and which halos that needs.
struct ConvolvedShares {
  struct Share {
    int64_t skipped;  ///< leading tokens of shard and halo that are not needed
    int64_t needed;
  };
  std::vector<int64_t> lengths;  ///< number of results of each rank
  std::vector<Share> of_rank;
  int64_t left = 0, right = 0;  ///< halo widths, the same on every rank
};
ConvolvedShares convolved_shares(const Convolved& convolution, const TokenLayout& layout);

}  // namespace wanpar
