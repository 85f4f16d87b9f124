#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <vector>

namespace wanpar {

/// Collective over `stages`. Clips the gradient norm over the parameters of all stages of a BlockPipeline to
/// `max`, and returns the norm before clipping. Each rank passes the module's parameters; a gradient that is
/// replicated on several stages (of a parameter outside the blocks) counts once.
double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max, const Communicator& stages);

}  // namespace wanpar
