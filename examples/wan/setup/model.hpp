#pragma once
#include <filesystem>
#include <wanpar/core/communicator.hpp>

#include "wan/setup/finding.hpp"

namespace wan::setup {

/// Of a checkpoint, without its values: what its parts are, and how many parameters they have.
Findings checkpoint(const std::filesystem::path& folder);

/// Collective. A small transformer of Wan's architecture with random weights, its tokens split over the
/// ranks, beside itself on this rank alone.
Finding transformer(const wanpar::Communicator& world, at::Device device);

}  // namespace wan::setup
