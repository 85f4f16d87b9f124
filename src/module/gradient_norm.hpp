#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <vector>

namespace wanpar {

/// Collective. The norm of a model's gradients, from what this rank holds of each; one that is undefined
/// counts as zeros. The ranks of `shards` hold parts of each gradient; those of `stages` whole ones, some of
/// which several hold alike.
double global_norm(const std::vector<at::Tensor>& gradients, const Communicator& shards,
                   const Communicator& stages);

/// Scales gradients whose norm is `norm` to one of at most `max`.
void scale_to_norm(const std::vector<at::Tensor>& parameters, double norm, double max);

}  // namespace wanpar
