#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/transport/checked.hpp>

#include <functional>

namespace wanpar::local {

struct Options {
  std::chrono::milliseconds timeout = std::chrono::seconds(60);  ///< of waits, while no rank is at work
  Checks checks = Checks::automatic;                             ///< on, unless off
};

/// Runs `program` once a rank, each rank a thread of this process with cores / ranks intra-op threads.
///
/// The threads begin with the caller's modes (no_grad, inference_mode). When a rank throws, the others stop
/// waiting for it with an error that names it, and the first rank's exception is thrown here, after all
/// threads have ended.
void run(int ranks, const std::function<void(Communicator)>& program, Options options = {});

}  // namespace wanpar::local
