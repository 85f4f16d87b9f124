#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <vector>

namespace wanpar {

/// Collective. The norm of a model's gradients, from this rank's part of each; an undefined one counts as
/// zeros. The ranks of `shards` hold shards of each gradient; those of `stages` hold full gradients, some
/// replicated.
double global_norm(const std::vector<at::Tensor>& gradients, const Communicator& shards,
                   const Communicator& stages);

/// Scales the gradients, whose norm is `norm`, to a norm of at most `max`.
void scale_to_norm(const std::vector<at::Tensor>& parameters, double norm, double max);

}  // namespace wanpar
