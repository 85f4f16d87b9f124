#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/conformance/require.hpp>

#include <functional>
#include <vector>

bool is_one_of_several_processes();

/// Runs a claim on every world: on thread ranks of each size, or, where this program was started as one of
/// several processes, in the world that it was started in, if that is of one of the sizes.
void on_worlds(const std::function<void(wanpar::Communicator)>& claim,
               const std::vector<int>& sizes = {1, 2, 3, 4, 6, 8});

// To be used on ranks, where doctest's own checks are not safe.
using wanpar::conformance::require;
using wanpar::conformance::require_close;
using wanpar::conformance::require_equal;
using wanpar::conformance::require_error;
using wanpar::conformance::require_error_of_any_kind;
