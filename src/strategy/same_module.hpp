#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string_view>

namespace wanpar {

/// Collective. Throws Error on every rank, naming the strategy, unless the ranks' modules agree in the names,
/// shapes and dtypes of these tensors.
void check_same_module(const Communicator& group, const NamedTensors& tensors, std::string_view strategy);

}  // namespace wanpar
