#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/attention.hpp>

#include <optional>
#include <vector>

#include "module/split/split_place.hpp"
#include "strategy/patch_parallel/patch_steps.hpp"
#include "strategy/patch_parallel/sight.hpp"

namespace wanpar {

/// What keys and values of displaced steps are.
struct StaleKeys {
  std::optional<at::ScalarType> dtype;  ///< that they travel and wait in; the model's where left out
  std::optional<Reach> reach;           ///< everything where left out
  bool is_waited_for;                   ///< what is within reach is of this step, too
};

/// Attention of this patch's queries to its own keys and values, and to the others' of this step, or, in a
/// displaced one, of the step before. `place` says how the tokens lie in rows or frames; the call is prepared
/// and has one batch dimension, its mask is whole. Outside of steps it has gradients.
at::Tensor displaced_attention(const Communicator& patches, const SplitPlacement& place,
                               const StaleKeys& options, PatchSteps& steps, Attention call);

}  // namespace wanpar
