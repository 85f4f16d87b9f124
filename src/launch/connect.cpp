#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string_view>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/checked.hpp>

#include "transport/c10d.hpp"

namespace wanpar {
namespace {

std::optional<std::string> environment(const char* name) {
  auto* value = std::getenv(name);
  return value && *value ? std::optional<std::string>(value) : std::nullopt;
}

int number(const char* name, std::optional<int> otherwise = {}) {
  auto text = environment(name);
  if (!text && otherwise) return *otherwise;
  if (!text) throw Error(fmt::format("{} is not set, but other variables of the same launcher are", name));
  int value = 0;
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size())
    throw Error(fmt::format("{} is '{}', which is no number", name, *text));
  return value;
}

Place torchrun() {
  Place place{.rank = number("RANK"), .world_size = number("WORLD_SIZE"), .source = "torchrun"};
  place.local_rank = number("LOCAL_RANK", place.rank);
  place.local_size = number("LOCAL_WORLD_SIZE", place.world_size);
  place.store_is_there = environment("TORCHELASTIC_USE_AGENT_STORE") == "True";
  place.run = environment("TORCHELASTIC_RUN_ID").value_or("") + "." +
              environment("TORCHELASTIC_RESTART_COUNT").value_or("0");
  return place;
}

Place open_mpi() {
  return {.rank = number("OMPI_COMM_WORLD_RANK"),
          .world_size = number("OMPI_COMM_WORLD_SIZE"),
          .local_rank = number("OMPI_COMM_WORLD_LOCAL_RANK"),
          .local_size = number("OMPI_COMM_WORLD_LOCAL_SIZE"),
          .source = "Open MPI"};
}

void check(const Place& place) {
  if (place.world_size < 1)
    throw Error(fmt::format("the world size is {}; it must be at least 1", place.world_size));
  if (place.rank < 0 || place.rank >= place.world_size)
    throw Error(fmt::format("the rank is {}, but with a world size of {} ranks are 0 to {}", place.rank,
                            place.world_size, place.world_size - 1));
  if (place.master_port < 1 || place.master_port > 65535)
    throw Error(fmt::format("the master port is {}; ports are 1 to 65535", place.master_port));
}

/// The CUDA device of this rank, or -1 for the CPU. Where a rank sees a single one, that is its own: so do
/// schedulers deal them out. That no other has the same, the ranks find out when they meet.
int choose_device(const Place& place, Backend backend) {
  if (backend == Backend::gloo) return -1;
  auto devices = cuda_devices();
  if (devices >= place.local_size) return place.local_rank;
  if (devices == 1) return 0;
  if (backend == Backend::automatic && devices == 0) return -1;
  throw Error(
      fmt::format("Not enough GPUs available: {} ranks on this node, {} devices", place.local_size, devices));
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
        throw Error(fmt::format(
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

Place find_place() {
  bool by_hand = environment("RANK") || environment("WORLD_SIZE");
  bool mpi = environment("OMPI_COMM_WORLD_RANK").has_value();
  auto place = by_hand ? torchrun() : mpi ? open_mpi() : Place{};
  bool several_hosts = place.local_size < place.world_size;
  if (mpi && several_hosts && !environment("MASTER_ADDR"))
    throw Error(
        "mpirun started ranks on several hosts: set MASTER_ADDR to the host of rank 0 (mpirun -x "
        "MASTER_ADDR=…)");
  place.master_addr = environment("MASTER_ADDR").value_or(place.master_addr);
  place.master_port = number("MASTER_PORT", place.master_port);
  return place;
}

Communicator connect(ConnectOptions options) {
  auto place = options.place ? *options.place : find_place();
  check(place);
  int device = choose_device(place, options.backend);
  if (place.world_size == 1) return Communicator().with_timeout(options.timeout);

  auto transport = Met::once(place, [&] {
    return meet({.host = place.master_addr,
                 .port = place.master_port,
                 .store_is_there = place.store_is_there,
                 .run = place.run,
                 .rank = place.rank,
                 .world_size = place.world_size,
                 .device = device,
                 .timeout = options.timeout});
  });
  bool check_calls = options.checks == Checks::on || (options.checks == Checks::automatic && device < 0);
  if (check_calls) transport = checked(transport);
  return Communicator(transport, options.timeout);
}

}  // namespace wanpar
