#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

namespace wanpar {

/// Collective. The mean of the losses of ranks that trained the same stage on other samples; their gradients
/// become the mean likewise. One that a rank lacks counts as zeros.
double average_over(const Communicator& replicas, const NamedTensors& parameters, double loss);

}  // namespace wanpar
