#pragma once
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <string>
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/launch/connect.hpp>

// What main() of a program is made of. It begins on all ranks or on none.
namespace wan {

/// What main() is to return: 0, or where `run` throws, 2 for a wrong command line and else 1. What all ranks
/// say alike, rank 0 says; anything else each says for itself.
int status_of(const std::string& program, const std::function<void(const wanpar::Place&)>& run);

/// The failure of `action`: a digit, which is the exit code that goes with it, and a sentence; empty where it
/// does not fail.
std::string failure_of(const std::function<void()>& action);

/// How many ranks there will be: threads, or the processes of `place`. Throws UsageError for both at once.
int ranks_of(const wanpar::Place& place, int64_t local_ranks);

/// The device of this process.
at::Device device_at(const wanpar::Place& place, at::DeviceType type);

/// What a process brings when its ranks are to begin.
struct Start {
  int64_t local_ranks = 1;
  double timeout = 60;       ///< seconds that ranks wait where none is at work
  bool on_cuda = false;      ///< what the ranks work on; it says how they speak to each other
  std::string failure = {};  ///< by failure_of(), of a process that cannot begin
  std::string told = {};     ///< what all processes must have been told alike
  std::function<void(const wanpar::PeerLostError&)> on_lost = {};  ///< instead of ending this process
};

/// Collective. Runs `work` on each rank: on threads of this process where `local_ranks` is more than one,
/// else on the processes of `place`. Where one of them has a failure, or was told something else, all throw.
/// A process that works on while another one is killed, or stopped, ends with its sentence, a second later.
void on_ranks(const wanpar::Place& place, const Start& start,
              const std::function<void(const wanpar::Communicator&)>& work);

}  // namespace wan
