#pragma once
#include <wanpar/extend/conformance/strategy.hpp>

#include <vector>

using wanpar::conformance::Gradients;
using wanpar::conformance::gradients_of;
using wanpar::conformance::gradients_of_shards;
using wanpar::conformance::Strategy;
using wanpar::conformance::Subject;
using wanpar::conformance::Wrap;
using Wrapped = wanpar::conformance::WrappedSubject;

/// Those of the library, and a TorchScript file.
const std::vector<Subject>& subjects();

/// What every strategy must do, on worlds of these sizes.
void conform(const Strategy& strategy, const std::vector<Subject>& modules = subjects(),
             const std::vector<int>& sizes = {1, 2, 3, 4, 6, 8});
