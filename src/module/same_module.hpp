#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// Collective. require_same for the names, shapes and dtypes of tensors.
void require_same_module(const std::string& who, const std::vector<Communicator>& groups,
                         const NamedTensors& tensors);

/// Collective. As above, but also accepts pipeline stages: each tensor is held by all ranks or by exactly
/// one, and every rank holds some of its own. Returns true for stages.
bool require_same_or_own(const std::string& who, const Communicator& group, const NamedTensors& tensors);

}  // namespace wanpar
