#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// Collective. Whether ranks of these groups are threads that share a parameter's memory.
bool are_shared(const std::vector<Communicator>& groups, const NamedTensors& parameters);

/// Call in a backward, with parameters that thread ranks share: throws Error if that backward accumulates
/// into their `.grad`, to which each rank would add the sum over all ranks.
void refuse_shared_accumulation(const std::string& who, const NamedTensors& parameters);

}  // namespace wanpar
