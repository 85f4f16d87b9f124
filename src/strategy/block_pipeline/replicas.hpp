#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

namespace wanpar {

/// Collective. Averages losses and gradients over ranks that trained the same stage on other samples, and
/// returns the mean loss. An undefined gradient counts as zeros.
double average_over(const Communicator& replicas, const NamedTensors& parameters, double loss);

}  // namespace wanpar
