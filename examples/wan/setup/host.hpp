#pragma once
#include <wanpar/launch/connect.hpp>

#include "wan/setup/finding.hpp"

namespace wan::setup {

/// Of this process, before it meets others: versions, devices, memory, disk, limits of the system, the port.
/// `on_cuda` is whether a CUDA device was asked for.
Findings host(const wanpar::Place& place, int64_t local_ranks, bool on_cuda, const std::string& version);

}  // namespace wan::setup
