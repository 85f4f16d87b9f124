#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <chrono>
#include <memory>
#include <string>

#include "transport/heartbeat.hpp"

namespace wanpar {

/// What a process must know to meet the others of its run.
struct Rendezvous {
  std::string host;
  int port;
  bool store_is_there;  ///< a launcher's agent keeps it; otherwise rank 0 does
  std::string run;
  int rank;
  int world_size;
  int device;  ///< CUDA device to take, or -1 for Gloo on the CPU
  std::chrono::milliseconds timeout;
  Heartbeat heartbeat = {};
};

/// Meets the other ranks and makes their group, Gloo's or NCCL's, within the timeout.
std::shared_ptr<Transport> meet(const Rendezvous& rendezvous);

/// How many CUDA devices this process could take: none where the build has no CUDA.
int cuda_devices();

}  // namespace wanpar
