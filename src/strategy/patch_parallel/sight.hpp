#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "module/split/split_place.hpp"

namespace wanpar {

/// How far a displaced step sees, where not everywhere: in rows or frames.
struct Reach {
  int64_t overlap;               ///< beyond the patch, or the chunk, on both sides
  std::optional<int64_t> chunk;  ///< frames that see one another, whatever the patches
};

/// Queries, and the keys that they attend to, as tokens of the whole.
struct Window {
  Ranges queries, keys;
};

/// Which tokens of the others a patch needs, and who needs its own.
struct Sight {
  bool is_everything;
  std::vector<Window> windows;
  Ranges tokens;             ///< that are needed, of one rank after the other, all of its own among them
  std::vector<Ranges> from;  ///< of each rank: where in its tokens those are
  std::vector<Ranges> to;    ///< where in this rank's own those are that each of the others needs
};

/// Of patch `here`; `held` are the tokens of each.
Sight everything(const std::vector<Ranges>& held, int here);

/// The same, within reach, of tokens that lie in rows or frames as `place` says.
Sight within_reach(const std::vector<Ranges>& held, int here, const SplitPlacement& place,
                   const Reach& reach);

/// Of tokens in this order, where those are that are among others.
Ranges positions(const Ranges& tokens, const Ranges& others);
/// And the tokens at such positions.
Ranges tokens_at(const Ranges& tokens, const Ranges& positions);

}  // namespace wanpar
