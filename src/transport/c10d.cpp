// LibTorch's process groups behind our Transport.
#include "transport/c10d.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/util/Flags.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#ifdef USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#ifdef USE_C10D_NCCL
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/c10d.hpp>

#include <wanpar/extend/transport/pairwise.hpp>
#include "core/flat.hpp"
#include "core/sentence.hpp"
#include "transport/c10d_rendezvous.hpp"
#include "transport/c10d_store.hpp"
#include "transport/deadline.hpp"
#include "transport/pulse.hpp"
#include "transport/within.hpp"

C10_DECLARE_int(caffe2_log_level);

namespace wanpar {
namespace {

using Handle = c10::intrusive_ptr<c10d::Work>;

c10d::ReduceOp reduce_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return c10d::ReduceOp::SUM;
    case ReduceOp::mean:
      return c10d::ReduceOp::AVG;
    case ReduceOp::product:
      return c10d::ReduceOp::PRODUCT;
    case ReduceOp::min:
      return c10d::ReduceOp::MIN;
    case ReduceOp::max:
      return c10d::ReduceOp::MAX;
  }
  throw Error("unknown reduce operation");
}

/// That this rank belongs to a group. Where the ranks have met in a run, it can be found out of each of them
/// whether it lives, and others learn that this one has left before its connections tell them.
class Membership {
 public:
  /// Where the user made the backend, nobody can be asked.
  explicit Membership(Pulse::Group group, std::shared_ptr<Pulse> pulse = {})
      : group_(std::move(group)), pulse_(std::move(pulse)) {
    if (pulse_) pulse_->enter(group_.name);
  }
  ~Membership() {
    if (pulse_) pulse_->leave(group_.name);
  }
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  /// That of a part of these ranks.
  std::shared_ptr<Membership> of_part(const std::string& name, std::span<const int> ranks) const {
    Pulse::Group part{name, {}};
    for (auto rank : ranks) part.members.push_back(pulse_ ? group_.members[rank] : rank);
    return std::make_shared<Membership>(std::move(part), pulse_);
  }

  const std::string& name() const { return group_.name; }
  void begin(const Call& call) const {
    if (pulse_) pulse_->begin(group_.name, call.sequence);
  }
  Error failed(const Call& call, int peer, const std::exception& failure) const {
    auto detail = first_line(failure.what());
    if (pulse_) return Error(pulse_->failed(group_, call, peer, detail));
    return Error(fmt::format("{}: the connection to {} failed; it has probably died ({})", where(call),
                             name_of(peer), detail));
  }
  Error late(const Call& call, int peer) const {
    return Error(pulse_ ? pulse_->too_late(group_, call, peer) : too_late(call, name_of(peer)));
  }

 private:
  static std::string name_of(int peer) { return peer < 0 ? "a rank" : fmt::format("rank {}", peer); }

  Pulse::Group group_;
  std::shared_ptr<Pulse> pulse_;
};

/// Transfers of one call, each with the peer that it needs, or -1 where it needs them all.
class Transfers : public Work {
 public:
  /// `looks`: whether to look for the end without rest, where the backend's own wait looks once a
  /// millisecond.
  Transfers(Call call, std::shared_ptr<const Membership> membership, std::optional<int64_t> sent, bool looks)
      : call_(std::move(call)),
        membership_(std::move(membership)),
        deadline_(call_.timeout),
        sent_(sent),
        looks_(looks) {}

  /// Begins one by `begin`, which returns its handle.
  template <class Begin>
  void add(int peer, at::Tensor keep, Begin begin) {
    try {
      parts_.push_back({begin(), peer, std::move(keep)});
    } catch (const std::exception& failure) {
      throw membership_->failed(call_, peer, failure);
    }
  }

  void wait() override {
    for (auto& part : parts_) {
      try {
        while (looks_ && !part.work->isCompleted() && !deadline_.is_over()) std::this_thread::yield();
        part.work->wait(deadline_.left(std::chrono::milliseconds(1)));
      } catch (const std::exception& failure) {
        auto peer = part.peer;
        auto is_late = deadline_.is_over();
        parts_.clear();
        throw is_late ? membership_->late(call_, peer) : membership_->failed(call_, peer, failure);
      }
    }
    parts_.clear();
  }
  std::optional<int64_t> sent() const override { return sent_; }

 private:
  struct Part {
    Handle work;
    int peer;
    at::Tensor keep;
  };

  Call call_;
  std::shared_ptr<const Membership> membership_;
  Deadline deadline_;
  std::vector<Part> parts_;
  std::optional<int64_t> sent_;
  bool looks_;
};

/// What goes wrong where ranks meet is thrown; c10d would log it as well, with stack traces, on every rank.
/// The level is the process's: the first of those who meet at the same time sets it, the last one puts it
/// back.
class QuietLog {
 public:
  QuietLog() {
    std::lock_guard lock(mutex_);
    if (meeting_++ > 0) return;
    before_ = FLAGS_caffe2_log_level;
    if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3 /* fatal alone */;
  }
  ~QuietLog() {
    std::lock_guard lock(mutex_);
    if (--meeting_ == 0) FLAGS_caffe2_log_level = before_;
  }

 private:
  static inline std::mutex mutex_;
  static inline int meeting_ = 0, before_ = 0;
};

/// Makes the backend of a group: `timeout` is for connecting its ranks.
using MakeBackend = std::function<c10::intrusive_ptr<c10d::Backend>(
    const std::string& name, int rank, int size, std::chrono::milliseconds timeout)>;

class C10d : public Pairwise {
 public:
  C10d(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend factory,
       std::shared_ptr<const Membership> membership, std::string device)
      : backend_(std::move(backend)),
        factory_(std::move(factory)),
        membership_(std::move(membership)),
        device_(std::move(device)) {
    sent_.resize(size());
    received_.resize(size());
  }

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }
  std::string device() const override { return device_; }

  /// Half types add up in float32 on the CPU, as they do between threads: a sum of which the mean is wanted
  /// would leave the range of float16.
  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override {
    bool is_half = in.scalar_type() == at::kHalf || in.scalar_type() == at::kBFloat16;
    auto wide = in.is_cpu() && is_half ? in.to(at::kFloat) : out.copy_(in);
    bool divides = call.reduce == ReduceOp::mean && !has_mean();
    c10d::AllreduceOptions options;
    options.reduceOp = divides ? c10d::ReduceOp(c10d::ReduceOp::SUM) : reduce_op(call.reduce);
    options.timeout = call.timeout;
    std::vector<at::Tensor> tensors{wide};
    auto turn = turn_to_start();
    auto work = one(wide, call, [&] { return backend_->allreduce(tensors, options); });
    if (!divides && wide.is_same(out)) return work;
    return std::make_shared<ThenWork>(work, [=, n = size()]() mutable {
      if (divides) wide.div_(n);
      if (!wide.is_same(out)) out.copy_(wide);
    });
  }

  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override {
    c10d::BroadcastOptions options;
    options.rootRank = call.root;
    options.timeout = call.timeout;
    std::vector<at::Tensor> tensors{tensor};
    auto turn = turn_to_start();
    return one(tensor, call, [&] { return backend_->broadcast(tensors, options); });
  }

  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    auto work = transfers(call, payload(sends));
    auto turn = turn_to_start();
    for (auto& message : receives) {  // receives first: what comes finds its place
      auto tag = next(received_[message.peer]);
      if (message.tensor.numel() == 0) continue;
      std::vector<at::Tensor> tensors{message.tensor};
      work->add(message.peer, message.tensor, [&] { return backend_->recv(tensors, message.peer, tag); });
    }
    for (auto& message : sends) {
      auto tag = next(sent_[message.peer]);
      if (message.tensor.numel() == 0) continue;
      std::vector<at::Tensor> tensors{message.tensor};
      work->add(message.peer, message.tensor, [&] { return backend_->send(tensors, message.peer, tag); });
    }
    return work;
  }

  std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) override {
    if (!factory_)
      throw Error(
          "a group over a c10d backend of the user's own can be split only when it was given a factory for "
          "backends");
    auto list = fmt::format("{}", fmt::join(members, "-"));
    auto part =
        membership_->of_part(fmt::format("{}/{}#{}", membership_->name(), list, splits_[list]++), members);
    auto position = static_cast<int>(std::ranges::find(members, rank()) - members.begin());
    return connected(call, *part, [&](std::chrono::milliseconds timeout) {
      return remake(factory_(part->name(), position, static_cast<int>(members.size()), timeout), part);
    });
  }

  /// What `make` makes of a new group in the call's time. Gloo's is returned when every rank is connected to
  /// all others: were one to drop it before, Gloo would close it on those that are still at it. Other
  /// backends connect with their first call.
  template <class Make>
  static std::shared_ptr<C10d> connected(Call call, const Membership& membership, const Make& make) {
    QuietLog quiet;
    Deadline deadline(call.timeout);
    try {
      std::shared_ptr<C10d> group = make(call.timeout);
      if (!group->is_gloo()) return group;
      auto first = call;
      first.operation = Operation::barrier;
      first.rank = group->rank();
      first.size = group->size();
      first.timeout = deadline.left(std::chrono::milliseconds(100));
      first.about = fmt::format("the new group '{}'", membership.name());
      group->barrier(first)->wait();
      return group;
    } catch (const Error&) {
      throw;
    } catch (const StoreLost& failure) {
      throw Error(fmt::format("{}: the group could not be connected: {}", where(call), failure.what()));
    } catch (const std::exception& failure) {
      throw deadline.is_over() ? membership.late(call, -1) : membership.failed(call, -1, failure);
    }
  }

 protected:
  virtual std::shared_ptr<C10d> remake(c10::intrusive_ptr<c10d::Backend> backend,
                                       std::shared_ptr<const Membership> membership) const {
    return std::make_shared<C10d>(std::move(backend), factory_, std::move(membership), device_);
  }

  std::shared_ptr<Transfers> transfers(const Call& call, std::optional<int64_t> sent = {}) const {
    return std::make_shared<Transfers>(call, membership_, sent, looks());
  }

  /// Whether the backend reduces to a mean itself.
  virtual bool has_mean() const { return false; }

  /// What waits for a device has a processor to spare.
  virtual bool looks() const { return false; }

  template <class Begin>
  std::shared_ptr<Work> one(at::Tensor keep, const Call& call, Begin begin) const {
    membership_->begin(call);
    auto work = transfers(call);
    work->add(-1, std::move(keep), begin);
    return work;
  }

  c10::intrusive_ptr<c10d::Backend> backend_;
  MakeBackend factory_;
  std::shared_ptr<const Membership> membership_;  // ends before the backend does

 private:
  /// All Gloo backends of a process note their calls in one record, which threads may not write at the same
  /// time (so in LibTorch 2.11). To start a call of Gloo's takes no wait, so one may go after the other.
  std::unique_lock<std::mutex> turn_to_start() const {
    static std::mutex starting;
    return is_gloo() ? std::unique_lock(starting) : std::unique_lock<std::mutex>();
  }

  bool is_gloo() const { return backend_->getBackendName() == "gloo"; }

  static int next(int& tag) { return tag = (tag + 1) & 0x3fffffff; }

  std::string device_;
  std::vector<int> sent_, received_;  // tags, counted alike on both sides of each pair
  std::map<std::string, int> splits_;
};

std::shared_ptr<Membership> world_of(const Meeting& meeting, const Rendezvous& r) {
  Pulse::Group all{"world", std::vector<int>(r.world_size)};
  std::iota(all.members.begin(), all.members.end(), 0);
  return std::make_shared<Membership>(std::move(all), meeting.pulse);
}

#ifdef USE_C10D_NCCL
/// Calls of a backend that begin together. It would hold back all later ones if an exception left it so.
class Coalescing {
 public:
  explicit Coalescing(c10d::Backend& backend) : backend_(&backend) { backend_->startCoalescing(); }
  ~Coalescing() {
    try {
      if (backend_) backend_->endCoalescing();
    } catch (const std::exception&) {  // the exception on its way says more
    }
  }
  Coalescing(const Coalescing&) = delete;
  Coalescing& operator=(const Coalescing&) = delete;

  Handle end() { return std::exchange(backend_, nullptr)->endCoalescing(); }

 private:
  c10d::Backend* backend_;
};

/// NCCL has collectives of its own, faster than pairs; uneven ones are one group of sends and receives.
class Nccl : public C10d {
 public:
  Nccl(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend factory,
       std::shared_ptr<const Membership> membership)
      : C10d(std::move(backend), std::move(factory), std::move(membership), "cuda") {}

  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override {
    if (!even(counts)) return C10d::all_gather(out, in, counts, call);
    c10d::AllgatherOptions options;
    options.timeout = call.timeout;
    return one(in, call, [&] { return backend_->_allgather_base(out, in, options); });
  }

  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override {
    if (!even(counts)) return C10d::reduce_scatter(out, in, counts, call);
    c10d::ReduceScatterOptions options;
    options.reduceOp = reduce_op(call.reduce);
    options.timeout = call.timeout;
    return one(in, call, [&] { return backend_->_reduce_scatter_base(out, in, options); });
  }

  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override {
    c10d::AllToAllOptions options;
    options.timeout = call.timeout;
    std::vector<int64_t> to(in_counts.begin(), in_counts.end()), from(out_counts.begin(), out_counts.end());
    return one(in, call, [&] { return backend_->alltoall_base(out, in, from, to, options); });
  }

  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    Coalescing together(*backend_);
    auto parts = C10d::exchange(sends, receives, call);
    auto whole = together.end();
    if (!whole) return parts;
    auto work = transfers(call, parts->sent());
    auto begun = [&] { return whole; };
    work->add(-1, {}, begun);
    for (auto& message : sends) work->add(message.peer, message.tensor, begun);
    return work;
  }

 protected:
  std::shared_ptr<C10d> remake(c10::intrusive_ptr<c10d::Backend> backend,
                               std::shared_ptr<const Membership> membership) const override {
    return std::make_shared<Nccl>(std::move(backend), factory_, std::move(membership));
  }

  bool looks() const override { return true; }
  bool has_mean() const override { return true; }

 private:
  static bool even(std::span<const int64_t> counts) {
    return std::all_of(counts.begin(), counts.end(), [&](int64_t n) { return n == counts[0]; });
  }
};

/// NCCL whose backend nobody else has.
class OwnNccl : public Nccl {
 public:
  using Nccl::Nccl;

  /// As the backend's own destructor would, but that one warns first, and names a function that is not ours.
  ~OwnNccl() override {
    membership_.reset();
    try {
      backend_->abort();
    } catch (const std::exception&) {  // it took longer than the timeout: nobody waits for it any more
    }
  }

 protected:
  std::shared_ptr<C10d> remake(c10::intrusive_ptr<c10d::Backend> backend,
                               std::shared_ptr<const Membership> membership) const override {
    return std::make_shared<OwnNccl>(std::move(backend), factory_, std::move(membership));
  }
};

std::string name_of_device(int device) {
  auto* uuid = at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(device))->uuid.bytes;
  return fmt::format("{:02x}", fmt::join(reinterpret_cast<const uint8_t*>(uuid),
                                         reinterpret_cast<const uint8_t*>(uuid) + 16, ""));
}

std::shared_ptr<Transport> over_nccl(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend make,
                                     std::shared_ptr<const Membership> membership) {
  return std::make_shared<Nccl>(std::move(backend), std::move(make), std::move(membership));
}

std::shared_ptr<Transport> nccl(const Meeting& meeting, const Rendezvous& r, const Call& call) {
  // Whoever waits here is told what failed. LibTorch's watchdog, which does not run then, would end the
  // process a minute later, whoever has caught the error, and an exit would wait for it.
  setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(r.device));
  MakeBackend make = [store = meeting.store](const std::string& name, int rank, int size, auto timeout) {
    store->setTimeout(timeout);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                                       rank, size, options);
  };
  auto world = world_of(meeting, r);
  return C10d::connected(call, *world, [&](auto timeout) {
    return std::make_shared<OwnNccl>(make(world->name(), r.rank, r.world_size, timeout), make, world);
  });
}
#else
std::string name_of_device(int) { return {}; }

std::shared_ptr<Transport> over_nccl(c10::intrusive_ptr<c10d::Backend>, MakeBackend,
                                     std::shared_ptr<const Membership>) {
  throw Error("this build has no NCCL: it cannot carry a group over an NCCL backend");
}

std::shared_ptr<Transport> nccl(const Meeting&, const Rendezvous&, const Call&) {
  throw Error(
      "this build has no NCCL: it was configured where no CUDA toolkit was found; use Gloo, or build where "
      "one is");
}
#endif

#ifdef USE_C10D_GLOO
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

std::shared_ptr<Transport> gloo(const Meeting& meeting, const Rendezvous& r, const Call& call) {
  survive_closed_connections();
  // Gloo waits for a rank that does not connect five times as long as it is told.
  MakeBackend make = [store = meeting.store, device = gloo_device(r.host)](const std::string& name, int rank,
                                                                           int size, auto timeout) {
    using Backend = c10::intrusive_ptr<c10d::Backend>;
    auto backend = within<Backend>(timeout, [=]() -> Backend {
      store->setTimeout(timeout);
      auto options = c10d::ProcessGroupGloo::Options::create(timeout);
      options->devices.push_back(device);
      return c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                                         rank, size, options);
    });
    if (!backend) throw std::runtime_error("not all ranks were connected in time");
    return *backend;
  };
  auto world = world_of(meeting, r);
  return C10d::connected(call, *world, [&](auto timeout) {
    return std::make_shared<C10d>(make(world->name(), r.rank, r.world_size, timeout), make, world, "cpu");
  });
}
#else
std::shared_ptr<Transport> gloo(const Meeting&, const Rendezvous&, const Call&) {
  throw Error(
      "this build has no Gloo: configure with -DWANPAR_GLOO=ON where Gloo's headers are (libgloo-dev)");
}
#endif

}  // namespace

std::shared_ptr<Transport> c10d_transport(c10::intrusive_ptr<c10d::Backend> backend, BackendFactory factory) {
  MakeBackend make;
  if (factory)
    make = [factory](const std::string& name, int rank, int size, auto) { return factory(name, rank, size); };
  auto membership = std::make_shared<Membership>(Pulse::Group{"user", {}});
  if (backend->getBackendName() == "nccl")
    return over_nccl(std::move(backend), std::move(make), std::move(membership));
  return std::make_shared<C10d>(std::move(backend), std::move(make), std::move(membership), "");
}

int cuda_devices() { return at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().deviceCount()) : 0; }

std::shared_ptr<Transport> meet(const Rendezvous& r) {
  QuietLog quiet;
  Deadline deadline(r.timeout);
  try {
    // Who gives hosts names of their own lets ranks share a device, which NCCL then does not refuse either.
    const bool may_share = r.device < 0 || std::getenv("NCCL_HOSTID");
    auto meeting = meet_in_store(r, may_share ? "" : name_of_device(r.device), deadline);
    Call call;
    call.operation = Operation::subgroup;
    call.rank = r.rank;
    call.size = r.world_size;
    call.timeout = deadline.left(std::chrono::milliseconds(1000));
    call.site = std::source_location::current();
    call.about = "all ranks";
    return r.device < 0 ? gloo(meeting, r, call) : nccl(meeting, r, call);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& failure) {
    throw Error(
        fmt::format("rank {}: the ranks could not be connected: {}", r.rank, first_line(failure.what())));
  }
}

}  // namespace wanpar
