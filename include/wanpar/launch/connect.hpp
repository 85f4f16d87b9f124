#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/checked.hpp>

#include <functional>
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
  /// Automatic: what WANPAR_BACKEND says (gloo, nccl), or else NCCL where every rank of this host has a CUDA
  /// device, Gloo otherwise.
  Backend backend = Backend::automatic;
  Checks checks = Checks::automatic;  ///< on for Gloo, off for NCCL
  /// For the ranks to meet, and for calls, where no rank is at work.
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  /// How often ranks say to each other that they live; who is silent for three times is lost. None with 0:
  /// then every wait has its timeout, whoever works, and who is stopped is known by that alone.
  std::chrono::milliseconds heartbeat = std::chrono::seconds(1);
  /// Told once of the first ranks that have ended without a word, or are silent, whatever this process is
  /// doing: by a thread of its own, which must not throw. Calls that wait for such a rank throw by
  /// themselves.
  std::function<void(const PeerLostError&)> on_lost = {};
  std::optional<Place> place = {};  ///< explicit values instead of the environment's
};

/// Reads the environment of torchrun and wanrun (RANK, WORLD_SIZE), Open MPI, Slurm's srun, MPICH, or none of
/// them; MASTER_ADDR and MASTER_PORT under each. Without a port, where the launcher names
/// its run, one that follows from that name, so that two runs do not meet. Throws Error for an environment
/// that contradicts itself.
Place find_place();

/// Collective over the processes of the run: the group of all of them, or of this process alone.
///
/// Blocks until every rank is there. Throws Error, on every rank within the timeout, when one never comes,
/// when two ranks disagree on the world size, when a rank was started twice, when two have the same GPU, when
/// the port is held by somebody else, or by what an earlier call in this process gave. With NCCL, this
/// process takes the CUDA device of its local rank, or the one that it sees, before anything is allocated.
/// Where OMP_NUM_THREADS is not set, LibTorch takes this rank's part of the host's cores.
/// With Gloo, SIGPIPE is ignored from here on where it would end the process.
Communicator connect(ConnectOptions options = {});

}  // namespace wanpar
