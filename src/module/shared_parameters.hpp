#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// Collective. Whether ranks of these groups are threads that hold the same memory as a parameter.
bool are_shared(const std::vector<Communicator>& groups, const NamedTensors& parameters);

/// To be called in a backward, with parameters that ranks share: throws Error where that backward adds to
/// their `.grad`, to which each rank would add what is the sum over all of them already.
void refuse_shared_accumulation(const std::string& who, const NamedTensors& parameters);

}  // namespace wanpar
