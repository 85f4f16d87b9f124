#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// Collective. require_same for lists of tensors, which may differ in a name, shape or dtype.
void require_same_module(const std::string& who, const std::vector<Communicator>& groups,
                         const NamedTensors& tensors);

/// Collective. The same, but each rank may also hold tensors of its own: each of those that not all ranks
/// hold is held by one alone, and every rank holds some. Tells whether it is so.
bool require_same_or_own(const std::string& who, const Communicator& group, const NamedTensors& tensors);

}  // namespace wanpar
