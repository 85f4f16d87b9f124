#include "wan/setup/host.hpp"

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "wan/generate/room.hpp"

namespace wan::setup {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20, kGiB = uint64_t{1} << 30;

Finding launcher(const wanpar::Place& place, int64_t local_ranks) {
  if (place.world_size > 1)
    return ok("launcher", fmt::format("{}: {} processes, {} on this host", place.source, place.world_size,
                                      place.local_size));
  return ok("launcher",
            local_ranks > 1 ? fmt::format("none: {} ranks as threads", local_ranks) : "none: one rank");
}

Finding versions(const std::string& version) {
  return ok("versions", fmt::format("wanpar {}, LibTorch {}", version, TORCH_VERSION));
}

Finding cores(const wanpar::Place& place, int64_t local_ranks) {
  const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  const auto ranks = std::max<int64_t>(place.local_size, local_ranks);
  const auto found = fmt::format("{} for {} {}", cores, ranks, ranks == 1 ? "rank" : "ranks");
  if (cores >= ranks || at::hasCUDA()) return ok("cores", found);
  return warn("cores", found, "ranks on the CPU share cores: start no more of them than there are cores");
}

Finding devices(const wanpar::Place& place, bool on_cuda) {
  if (on_cuda && !at::hasCUDA())
    return fail("devices", "no CUDA device",
                "see what nvidia-smi says; LibTorch for the CPU alone sees none; or take --device cpu");
  if (!at::hasCUDA()) return ok("devices", "no CUDA device: ranks work on the CPU and speak by Gloo");
  const auto count = static_cast<int>(at::detail::getCUDAHooks().deviceCount());
  const auto found = fmt::format("{} CUDA devices for {} ranks", count, place.local_size);
  if (count >= place.local_size || count == 1) return ok("devices", found);
  return fail(
      "devices", found,
      fmt::format("start {} ranks on this host, or make more devices visible (CUDA_VISIBLE_DEVICES)", count));
}

Finding memory(const wanpar::Place& place) {
  const auto room = wan::room();
  const auto each = room.bytes / static_cast<uint64_t>(place.local_size);
  const auto found = fmt::format("{} for each process, by {}", gibibytes(each), room.limit);
  if (each < kGiB / 2) return fail("memory", found, "free some, or raise the limit");
  if (each < 4 * kGiB)
    return warn("memory", found,
                "enough for small models; wan_t2v says how much a checkpoint takes before it loads it");
  return ok("memory", found);
}

Finding disk() {
  std::error_code error;
  const auto here = std::filesystem::current_path(error);
  const auto space = std::filesystem::space(here, error);
  if (error)
    return fail("disk", fmt::format("this folder cannot be looked at: {}", error.message()),
                "change to a folder that is there");
  if (::access(here.c_str(), W_OK) != 0)
    return warn("disk", "this folder cannot be written to",
                "videos go here where --save_file does not say otherwise; give it");
  const auto found = fmt::format("{} free here", gibibytes(space.available));
  if (space.available < kGiB) return warn("disk", found, "a video with its tensors may take more; free some");
  return ok("disk", found);
}

Finding files() {
  constexpr rlim_t kFew = 128, kEnough = 1024;
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const auto found = fmt::format("{} open at once", limit.rlim_cur);
  if (limit.rlim_cur < kFew) return fail("files", found, "raise it: ulimit -n 4096");
  if (limit.rlim_cur < kEnough)
    return warn("files", found, "enough for a few ranks; ulimit -n 4096 for many");
  return ok("files", found);
}

Finding shared_memory() {
  std::error_code error;
  const auto space = std::filesystem::space("/dev/shm", error);
  if (error)
    return warn("shared memory", "/dev/shm is not there",
                "NCCL and MPI want it: mount a tmpfs there (docker run --shm-size=1g)");
  const auto found = fmt::format("{} free in /dev/shm", gibibytes(space.available));
  if (space.available < 64 * kMiB)
    return warn("shared memory", found, "NCCL and MPI want more: docker run --shm-size=1g");
  return ok("shared memory", found);
}

/// Whether others would find this host by its name.
Finding name(const wanpar::Place& place) {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  const bool is_several = place.local_size < place.world_size;
  const auto bad = [&](const std::string& what, const std::string& remedy) {
    return is_several ? warn("host name", what, remedy)
                      : ok("host name", what + "; it does not matter on one host");
  };
  if (::getaddrinfo(host, nullptr, &hints, &found) != 0)
    return bad(fmt::format("{} has no address", host),
               "add it to DNS or /etc/hosts, or set GLOO_SOCKET_IFNAME");
  char text[INET_ADDRSTRLEN] = "";
  const auto* address = &reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr;
  ::inet_ntop(AF_INET, address, text, sizeof text);
  const bool is_loopback = (ntohl(address->s_addr) >> 24) == 127;
  ::freeaddrinfo(found);
  if (is_loopback)
    return bad(fmt::format("{} is {}", host, text),
               "other hosts cannot reach that: set GLOO_SOCKET_IFNAME to the interface that they are on");
  return ok("host name", fmt::format("{} is {}", host, text));
}

/// Of a run alone: whether the port is free where ranks would meet.
Finding port(const wanpar::Place& place) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<uint16_t>(place.master_port));
  const bool is_free = ::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  ::close(listener);
  if (is_free) return ok("port", fmt::format("{} is free", place.master_port));
  return warn("port", fmt::format("{} is held by another program", place.master_port),
              "set MASTER_PORT to another one where ranks are started by hand");
}

}  // namespace

Findings host(const wanpar::Place& place, int64_t local_ranks, bool on_cuda, const std::string& version) {
  Findings all{launcher(place, local_ranks),
               versions(version),
               cores(place, local_ranks),
               devices(place, on_cuda),
               memory(place),
               disk(),
               files(),
               shared_memory(),
               name(place)};
  if (place.world_size == 1) all.push_back(port(place));
  return all;
}

}  // namespace wan::setup
