#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <chrono>
#include <memory>
#include <string>

#include "transport/heartbeat.hpp"

namespace wanpar {

/// The parameters of the rendezvous of a run's processes.
struct Rendezvous {
  std::string host;
  int port;
  bool store_is_there;  ///< hosted by a launcher's agent; otherwise rank 0 hosts it
  std::string run;
  int rank;
  int world_size;
  int device;  ///< CUDA device to use, or -1 for Gloo on the CPU
  std::chrono::milliseconds timeout;
  Heartbeat heartbeat = {};
};

/// Rendezvous with the other ranks; makes the group of all, over Gloo or NCCL, within the timeout.
std::shared_ptr<Transport> meet(const Rendezvous& rendezvous);

/// The number of CUDA devices that this process can use: 0 if the build has no CUDA.
int cuda_devices();

}  // namespace wanpar
