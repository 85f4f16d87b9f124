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
#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <map>
#include <mutex>
#include <thread>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/c10d.hpp>

#include "core/flat.hpp"
#include "core/sentence.hpp"
#include "transport/c10d_rendezvous.hpp"
#include "transport/pairwise.hpp"

C10_DECLARE_int(caffe2_log_level);

namespace wanpar {
namespace {

using Clock = std::chrono::steady_clock;
using Handle = c10::intrusive_ptr<c10d::Work>;

c10d::ReduceOp reduce_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return c10d::ReduceOp::SUM;
    case ReduceOp::product:
      return c10d::ReduceOp::PRODUCT;
    case ReduceOp::min:
      return c10d::ReduceOp::MIN;
    case ReduceOp::max:
      return c10d::ReduceOp::MAX;
  }
  throw Error("unknown reduce operation");
}

/// Transfers of one call, each with the peer that it needs, or -1 where it needs them all.
class Transfers : public Work {
 public:
  /// `looks`: whether to look for the end without rest, where the backend's own wait looks once a
  /// millisecond.
  explicit Transfers(Call call, std::optional<int64_t> sent = {}, bool looks = false)
      : call_(std::move(call)), sent_(sent), looks_(looks) {}

  /// Begins one by `begin`, which returns its handle.
  template <class Begin>
  void add(int peer, at::Tensor keep, Begin begin) {
    try {
      parts_.push_back({begin(), peer, std::move(keep)});
    } catch (const std::exception& failure) {
      throw lost(peer, failure);
    }
  }

  void wait() override {
    auto deadline = Clock::now() + call_.timeout;
    for (auto& part : parts_) {
      try {
        while (looks_ && !part.work->isCompleted() && Clock::now() < deadline) std::this_thread::yield();
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
        part.work->wait(std::max(left, std::chrono::milliseconds(1)));
      } catch (const std::exception& failure) {
        auto error =
            Clock::now() >= deadline ? Error(too_late(call_, who(part.peer))) : lost(part.peer, failure);
        parts_.clear();
        throw error;
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

  static std::string who(int peer) { return peer < 0 ? "a rank" : fmt::format("rank {}", peer); }
  Error lost(int peer, const std::exception& failure) const {
    return Error(fmt::format("{}: the connection to {} failed; it has probably died ({})", where(call_),
                             who(peer), first_line(failure.what())));
  }

  Call call_;
  std::vector<Part> parts_;
  std::optional<int64_t> sent_;
  bool looks_;
};

class C10d : public Pairwise {
 public:
  C10d(c10::intrusive_ptr<c10d::Backend> backend, BackendFactory factory, std::string name,
       std::string device)
      : backend_(std::move(backend)),
        factory_(std::move(factory)),
        name_(std::move(name)),
        device_(std::move(device)) {
    sent_.resize(size());
    received_.resize(size());
  }

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }
  std::string device() const override { return device_; }

  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override {
    out.copy_(in);
    c10d::AllreduceOptions options;
    options.reduceOp = reduce_op(call.reduce);
    options.timeout = call.timeout;
    std::vector<at::Tensor> tensors{out};
    auto turn = turn_to_start();
    auto work = one(out, call, [&] { return backend_->allreduce(tensors, options); });
    if (call.reduce != ReduceOp::mean) return work;
    return std::make_shared<ThenWork>(work, [out, n = size()]() mutable { out.div_(n); });
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
    auto name = fmt::format("{}/{}#{}", name_, list, splits_[list]++);
    auto position = std::find(members.begin(), members.end(), rank()) - members.begin();
    try {
      auto group = remake(factory_(name, static_cast<int>(position), static_cast<int>(members.size())), name);
      group->wait_for_all(call);
      return group;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& failure) {
      throw Error(
          fmt::format("{}: the group could not be connected: {}", where(call), first_line(failure.what())));
    }
  }

  /// Returns when every rank is connected to all others: were one to drop its group before, Gloo would close
  /// it on those that are still at it. Other backends connect with their first call.
  void wait_for_all(Call call) {
    if (!is_gloo()) return;
    call.operation = Operation::barrier;
    call.rank = rank();
    call.size = size();
    call.about = fmt::format("the new group '{}'", name_);
    barrier(call)->wait();
  }

 protected:
  virtual std::shared_ptr<C10d> remake(c10::intrusive_ptr<c10d::Backend> backend,
                                       const std::string& name) const {
    return std::make_shared<C10d>(std::move(backend), factory_, name, device_);
  }

  std::shared_ptr<Transfers> transfers(const Call& call, std::optional<int64_t> sent = {}) const {
    return std::make_shared<Transfers>(call, sent, looks());
  }

  /// What waits for a device has a processor to spare.
  virtual bool looks() const { return false; }

  template <class Begin>
  std::shared_ptr<Work> one(at::Tensor keep, const Call& call, Begin begin) const {
    auto work = transfers(call);
    work->add(-1, std::move(keep), begin);
    return work;
  }

  c10::intrusive_ptr<c10d::Backend> backend_;
  BackendFactory factory_;
  std::string name_;

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

#ifdef USE_C10D_NCCL
/// NCCL has collectives of its own, faster than pairs; uneven ones are one group of sends and receives.
class Nccl : public C10d {
 public:
  Nccl(c10::intrusive_ptr<c10d::Backend> backend, BackendFactory factory, std::string name)
      : C10d(std::move(backend), std::move(factory), std::move(name), "cuda") {}

  /// As the backend's own destructor would, but that one warns first, and names a function that is not ours.
  ~Nccl() override {
    try {
      backend_->abort();
    } catch (const std::exception&) {  // it took longer than the timeout: nobody waits for it any more
    }
  }

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
    options.reduceOp =
        call.reduce == ReduceOp::mean ? c10d::ReduceOp(c10d::ReduceOp::AVG) : reduce_op(call.reduce);
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
    backend_->startCoalescing();
    auto parts = C10d::exchange(sends, receives, call);
    auto whole = backend_->endCoalescing();
    if (!whole) return parts;
    auto work = transfers(call, parts->sent());
    auto begun = [&] { return whole; };
    work->add(-1, {}, begun);
    for (auto& message : sends) work->add(message.peer, message.tensor, begun);
    return work;
  }

 protected:
  std::shared_ptr<C10d> remake(c10::intrusive_ptr<c10d::Backend> backend,
                               const std::string& name) const override {
    return std::make_shared<Nccl>(std::move(backend), factory_, name);
  }

  bool looks() const override { return true; }

 private:
  static bool even(std::span<const int64_t> counts) {
    return std::all_of(counts.begin(), counts.end(), [&](int64_t n) { return n == counts[0]; });
  }
};

std::shared_ptr<Transport> nccl(const c10::intrusive_ptr<c10d::Store>& store, const Rendezvous& r) {
  // Whoever waits here is told what failed. LibTorch's watchdog, which does not run then, would end the
  // process a minute later, whoever has caught the error, and an exit would wait for it.
  setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(r.device));
  BackendFactory factory = [store, timeout = r.timeout](const std::string& name, int rank,
                                                        int size) -> c10::intrusive_ptr<c10d::Backend> {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                                       rank, size, options);
  };
  return std::make_shared<Nccl>(factory("world", r.rank, r.world_size), factory, "world");
}
#else
std::shared_ptr<Transport> nccl(const c10::intrusive_ptr<c10d::Store>&, const Rendezvous&) {
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
  bool loopback = host == "localhost" || host.starts_with("127.") || host == "::1";
  return loopback ? c10d::ProcessGroupGloo::createDeviceForHostname(host)
                  : c10d::ProcessGroupGloo::createDefaultDevice();
}

std::shared_ptr<Transport> gloo(const c10::intrusive_ptr<c10d::Store>& store, const Rendezvous& r) {
  BackendFactory factory = [store, device = gloo_device(r.host), timeout = r.timeout](
                               const std::string& name, int rank,
                               int size) -> c10::intrusive_ptr<c10d::Backend> {
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(device);
    return c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                                       rank, size, options);
  };
  auto world = std::make_shared<C10d>(factory("world", r.rank, r.world_size), factory, "world", "cpu");
  Call call;
  call.timeout = r.timeout;
  call.site = std::source_location::current();
  world->wait_for_all(call);
  return world;
}
#else
std::shared_ptr<Transport> gloo(const c10::intrusive_ptr<c10d::Store>&, const Rendezvous&) {
  throw Error(
      "this build has no Gloo: configure with -DWANPAR_GLOO=ON where Gloo's headers are (libgloo-dev)");
}
#endif

/// What goes wrong in a rendezvous is thrown; c10d would log it as well, with stack traces, on every rank.
class QuietLog {
 public:
  QuietLog() : before_(FLAGS_caffe2_log_level) {
    if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3 /* fatal alone */;
  }
  ~QuietLog() { FLAGS_caffe2_log_level = before_; }

 private:
  int before_;
};

}  // namespace

std::shared_ptr<Transport> c10d_transport(c10::intrusive_ptr<c10d::Backend> backend, BackendFactory factory) {
  return std::make_shared<C10d>(std::move(backend), std::move(factory), "user", "");
}

int cuda_devices() { return at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().deviceCount()) : 0; }

std::shared_ptr<Transport> meet(const Rendezvous& r) {
  QuietLog quiet;
  try {
    auto store = meet_in_store(r);
    return r.device < 0 ? gloo(store, r) : nccl(store, r);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& failure) {
    throw Error(
        fmt::format("rank {}: the ranks could not be connected: {}", r.rank, first_line(failure.what())));
  }
}

}  // namespace wanpar
