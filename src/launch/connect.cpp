#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/checked.hpp>

#include "launch/environment.hpp"
#include "transport/c10d.hpp"

namespace wanpar {
namespace {

void check(const Place& place) {
  if (place.world_size < 1)
    throw UsageError(fmt::format("the world size is {}; it must be at least 1", place.world_size));
  if (place.rank < 0 || place.rank >= place.world_size)
    throw UsageError(fmt::format("the rank is {}, but with a world size of {} ranks are 0 to {}", place.rank,
                                 place.world_size, place.world_size - 1));
  if (place.master_port < 1 || place.master_port > 65535)
    throw UsageError(fmt::format("the master port is {}; ports are 1 to 65535", place.master_port));
}

/// The CUDA device of this rank, or -1 for the CPU. Where a rank sees a single one, that is its own: so do
/// schedulers deal them out. That no other has the same, the ranks find out when they meet.
int choose_device(const Place& place, Backend backend) {
  if (backend == Backend::gloo) return -1;
  auto devices = cuda_devices();
  if (devices >= place.local_size) return place.local_rank;
  if (devices == 1) return 0;
  if (backend == Backend::automatic && devices == 0) return -1;
  throw UsageError(
      fmt::format("Not enough GPUs available: {} ranks on this node, {} devices", place.local_size, devices));
}

/// Ranks of one host share its cores, where neither the launcher nor the user deals them out.
void share_cores(const Place& place) {
  if (place.local_size == 1 || environment("OMP_NUM_THREADS")) return;
  const auto mine = static_cast<int>(std::thread::hardware_concurrency());  // those that it is bound to
  const bool is_bound = mine < ::sysconf(_SC_NPROCESSORS_ONLN);
  at::set_num_threads(is_bound ? mine : std::max(1, mine / place.local_size));
}

/// The groups that this process is in, by where they met: a second one in the same place would find its own
/// port held, and its own rank there.
class Met {
 public:
  static std::shared_ptr<Transport> once(const Place& place,
                                         const std::function<std::shared_ptr<Transport>()>& meet) {
    static Met met;
    auto where = fmt::format("rank {} at {}:{}", place.rank, place.master_addr, place.master_port);
    {
      std::lock_guard lock(met.mutex_);
      if (!met.living_[where].expired())
        throw UsageError(fmt::format(
            "this process has connected as {} already; go on with the Communicator of that call, or with a "
            "subgroup of it, or set another MASTER_PORT for a second one",
            where));
    }
    auto transport = meet();
    std::lock_guard lock(met.mutex_);
    met.living_[where] = transport;
    return transport;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<Transport>> living_;
};

}  // namespace

Communicator connect(ConnectOptions options) {
  auto place = options.place ? *options.place : find_place();
  check(place);
  if (options.backend == Backend::automatic) options.backend = find_backend();
  int device = choose_device(place, options.backend);
  share_cores(place);
  if (place.world_size == 1) return Communicator().with_timeout(options.timeout);

  auto transport = Met::once(place, [&] {
    return meet({.host = place.master_addr,
                 .port = place.master_port,
                 .store_is_there = place.store_is_there,
                 .run = place.run,
                 .rank = place.rank,
                 .world_size = place.world_size,
                 .device = device,
                 .timeout = options.timeout,
                 .heartbeat = {options.heartbeat, options.on_lost}});
  });
  bool check_calls = options.checks == Checks::on || (options.checks == Checks::automatic && device < 0);
  if (check_calls) transport = checked(transport);
  return Communicator(transport, options.timeout);
}

}  // namespace wanpar
