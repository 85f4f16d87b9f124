#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "module/split/split_placement.hpp"

namespace wanpar {

/// The limit of attention in displaced steps, in rows or frames.
struct Reach {
  int64_t overlap;               ///< halo on both sides of the patch or chunk
  std::optional<int64_t> chunk;  ///< frames per chunk, independent of the patches
};

/// Queries, and the keys that they attend to, as global tokens.
struct Window {
  Ranges queries, keys;
};

/// Which tokens of other ranks a patch needs, and which of its own the others need.
struct Sight {
  bool is_everything;
  std::vector<Window> windows;
  Ranges tokens;             ///< the tokens needed, in rank order, including all of its own
  std::vector<Ranges> from;  ///< of each rank: the positions of those tokens in its shard
  std::vector<Ranges>
      to;  ///< for each rank: the positions, in this rank's shard, of the tokens that it needs
};

/// Unlimited attention of patch `here`; `held` are the tokens of each patch.
Sight everything(const std::vector<Ranges>& held, int here);

/// Limited attention, for tokens in rows or frames with placement `place`.
Sight within_reach(const std::vector<Ranges>& held, int here, const SplitPlacement& place,
                   const Reach& reach);

/// The positions, in `tokens`, of those that are among `others`.
Ranges positions(const Ranges& tokens, const Ranges& others);
/// The tokens at these positions.
Ranges tokens_at(const Ranges& tokens, const Ranges& positions);

}  // namespace wanpar
