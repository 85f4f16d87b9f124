#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>

namespace wanpar {

/// Collective. Throws Error on every rank when the ranks' lists differ in a name, shape or dtype, naming the
/// first difference; `who` begins the sentence. Moves 16 bytes where they agree.
void check_same_module(const std::string& who, const Communicator& group, const NamedTensors& tensors);

}  // namespace wanpar
