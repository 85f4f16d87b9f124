// Gloo, on the CPU.
#include <ATen/ATen.h>
#include <sched.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#ifdef USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif

#include <csignal>
#include <cstdlib>
#include <mutex>
#include <wanpar/core/error.hpp>

#include "transport/c10d_backends.hpp"
#include "transport/within.hpp"

namespace wanpar {

#ifdef USE_C10D_GLOO
namespace {

using Handle = c10::intrusive_ptr<c10d::Backend>;

/// All Gloo backends of a process note their calls in one record, which threads may not write at the same
/// time (so in LibTorch 2.11). To start a call of Gloo's takes no wait, so one may go after the other.
std::mutex starting;

/// Gloo knows no way to end a wait from outside, but that one which takes longer than it was told closes the
/// group's connections, and so ends all others. This one is for a message that nobody sends.
void end_waits(const Handle& backend) {
  constexpr int kNobodys = 0x40000000;
  std::vector<at::Tensor> nothing{at::empty({1}, at::kByte)};
  for (int peer = 0; peer < backend->getSize();
       ++peer) {  // a connection that is closed already ends no other
    if (peer == backend->getRank()) continue;
    try {
      c10::intrusive_ptr<c10d::Work> work;
      {
        std::lock_guard turn(starting);
        work = backend->recv(nothing, peer, kNobodys);
      }
      work->wait(std::chrono::milliseconds(1));
    } catch (const std::exception&) {  // which is what was wanted
    }
  }
}

class Gloo : public C10d {
 public:
  using C10d::C10d;

 protected:
  std::shared_ptr<C10d> remake(Handle backend, std::shared_ptr<const Membership> membership) const override {
    return std::make_shared<Gloo>(std::move(backend), factory_, std::move(membership), device());
  }
  Waiting waiting() const override {
    return {.interrupt = [backend = backend_] { end_waits(backend); }};
  }
  std::unique_lock<std::mutex> turn_to_start() const override { return std::unique_lock(starting); }
  bool connects_at_once() const override { return true; }
};

/// Threads begun while it lives take no processor from a running one (SCHED_BATCH), unless the user chose a
/// policy.
class Patiently {
 public:
  Patiently() { change(SCHED_OTHER, SCHED_BATCH); }
  ~Patiently() { change(SCHED_BATCH, before_); }

 private:
  static void change(int from, int to) {
    sched_param priority{};
    if (sched_getscheduler(0) == from) sched_setscheduler(0, to, &priority);
  }
  int before_ = sched_getscheduler(0);
};

/// Its thread polls without rest for a connection that a rank holds while it writes to it; where there are
/// more threads than processors it would do so instead of that rank.
std::shared_ptr<gloo::transport::Device> gloo_device(const std::string& host) {
  Patiently starting_a_thread;
  if (auto* interface = std::getenv("GLOO_SOCKET_IFNAME"))
    return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  return is_this_host(host) ? c10d::ProcessGroupGloo::createDeviceForHostname(host)
                            : c10d::ProcessGroupGloo::createDefaultDevice();
}

/// Gloo writes to sockets whose other end may have gone, for which a program is ended by default. It is told
/// by an error as well. A handler that the user has set stays.
void survive_closed_connections() {
  struct sigaction now {};
  if (sigaction(SIGPIPE, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
}

}  // namespace

std::shared_ptr<Transport> over_gloo(const Meeting& meeting, const Rendezvous& r, const Call& call) {
  survive_closed_connections();
  // Gloo waits for a rank that does not connect five times as long as it is told.
  MakeBackend make = [store = meeting.store, device = gloo_device(r.host)](const std::string& name, int rank,
                                                                           int size, const Wait& wait) {
    auto limit = wait.limit(std::chrono::milliseconds(1));
    auto connect = [=]() -> Handle {
      store->setTimeout(limit);
      auto options = c10d::ProcessGroupGloo::Options::create(limit);
      options->devices.push_back(device);
      return c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                                         rank, size, options);
    };
    auto backend = until<Handle>([&] { return wait.is_over(); }, connect);
    if (!backend) throw std::runtime_error("not all ranks were connected in time");
    return *backend;
  };
  auto world = world_of(meeting, r);
  return C10d::connected(call, *world, [&](const Wait& wait) {
    return std::make_shared<Gloo>(make(world->name(), r.rank, r.world_size, wait), make, world, "cpu");
  });
}

std::shared_ptr<Transport> over_users_gloo(Handle backend, MakeBackend make,
                                           std::shared_ptr<const Membership> membership) {
  return std::make_shared<Gloo>(std::move(backend), std::move(make), std::move(membership), "");
}

#else
std::shared_ptr<Transport> over_users_gloo(c10::intrusive_ptr<c10d::Backend>, MakeBackend,
                                           std::shared_ptr<const Membership>) {
  throw UsageError("this build has no Gloo: it cannot carry a group over a Gloo backend");
}

std::shared_ptr<Transport> over_gloo(const Meeting&, const Rendezvous&, const Call&) {
  throw UsageError(
      "this build has no Gloo: configure with -DWANPAR_GLOO=ON where Gloo's headers are (libgloo-dev)");
}
#endif

}  // namespace wanpar
