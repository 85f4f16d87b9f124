#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/transport/checked.hpp>

#include <memory>
#include <optional>
#include <string>

namespace wanpar {

enum class Backend { automatic, gloo, nccl };

/// Where this process stands among the processes of a run.
struct Place {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;  ///< among the processes of this host: chooses the device, nothing else
  int local_size = 1;
  std::string master_addr = "127.0.0.1";
  int master_port = 29500;
  bool store_is_there = false;  ///< a launcher's agent already holds the store: nobody binds the port
  std::string run = "";         ///< keeps restarts of one agent apart
  std::string source = "alone";
};

struct ConnectOptions {
  Backend backend =
      Backend::automatic;  ///< NCCL where every rank of this host has a CUDA device, Gloo otherwise
  Checks checks = Checks::automatic;  ///< on for Gloo, off for NCCL
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  std::optional<Place> place = {};  ///< explicit values instead of the environment's
};

/// Reads the environment of torchrun, Open MPI or neither. Throws Error for one that contradicts itself.
Place find_place();

/// Collective over the processes of the run: the group of all of them, or of this process alone.
///
/// Blocks until every rank is there. Throws Error, on every rank within the timeout, when one never comes,
/// when two ranks disagree on the world size, when a rank was started twice, when two have the same GPU, when
/// the port is held by somebody else, or by what an earlier call in this process gave. With NCCL, this
/// process takes the CUDA device of its local rank, or the one that it sees, before anything is allocated.
/// With Gloo, SIGPIPE is ignored from here on where it would end the process.
Communicator connect(ConnectOptions options = {});

}  // namespace wanpar
