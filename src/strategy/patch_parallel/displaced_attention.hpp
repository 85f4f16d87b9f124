#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/attention.hpp>

#include <optional>
#include <vector>

#include "module/split/split_placement.hpp"
#include "strategy/patch_parallel/patch_steps.hpp"
#include "strategy/patch_parallel/sight.hpp"

namespace wanpar {

/// How displaced steps use the other ranks' keys and values.
struct StaleKeys {
  std::optional<at::ScalarType> dtype;  ///< in which they are sent and stored; the model's by default
  std::optional<Reach> reach;           ///< the tokens that attention is limited to; all by default
  bool is_waited_for;                   ///< keys and values within reach are of this step, not stale
};

/// Attention of this patch's queries to its own keys and values, and to the other patches' of this step, or
/// of the previous one in displaced steps. `place` is the placement of the tokens in rows or frames; the call
/// is prepared and has one batch dimension, its mask covers all tokens. Differentiable outside of steps.
at::Tensor displaced_attention(const Communicator& patches, const SplitPlacement& place,
                               const StaleKeys& options, PatchSteps& steps, Attention call);

}  // namespace wanpar
