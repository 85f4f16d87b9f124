#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <vector>

namespace wanpar {

/// Collective over `stages`. Scales gradients so that their norm, over the parameters of all stages of a
/// BlockPipeline, is at most `max`, and gives the norm that they had. Each rank gives the module's
/// parameters; a gradient that several stages hold alike, outside of blocks, counts once.
double clip_grad_norm(const std::vector<at::Tensor>& parameters, double max, const Communicator& stages);

}  // namespace wanpar
