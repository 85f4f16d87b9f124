#pragma once
#include <wanpar/core/communicator.hpp>

/// The same group over a slow link: what a rank sends takes its bytes over the bandwidth, in bytes a second,
/// one message behind the other and beside whatever the rank computes.
wanpar::Communicator slowed(const wanpar::Communicator& group, double bandwidth);
