#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// Collective. Throws Error on every rank of all groups when the ranks' lines of text differ, naming the
/// first that does; `who` begins the sentence, `what` says what the lines are. The groups are those of a grid
/// that this rank is in, in the same order everywhere. Moves 24 bytes a group where they agree.
void check_same(const std::string& who, const std::string& what, const std::vector<Communicator>& groups,
                const std::string& lines);

/// Collective. The same for lists of tensors, which may differ in a name, shape or dtype.
void check_same_module(const std::string& who, const std::vector<Communicator>& groups,
                       const NamedTensors& tensors);

}  // namespace wanpar
