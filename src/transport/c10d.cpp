// The one file that knows c10d: LibTorch's process groups behind our Transport, and the rendezvous that makes
// them.
#include "transport/c10d.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/util/Flags.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
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

#include "transport/pairwise.hpp"

C10_DECLARE_int(caffe2_log_level);

namespace wanpar {
namespace {

using Clock = std::chrono::steady_clock;
using Handle = c10::intrusive_ptr<c10d::Work>;

double seconds(std::chrono::milliseconds time) { return std::chrono::duration<double>(time).count(); }

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

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
  explicit Transfers(Call call) : call_(std::move(call)) {}
  void add(Handle work, int peer, at::Tensor keep) {
    parts_.push_back({std::move(work), peer, std::move(keep)});
  }

  void wait() override {
    auto deadline = Clock::now() + call_.timeout;
    for (auto& part : parts_) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
      try {
        part.work->wait(std::max(left, std::chrono::milliseconds(1)));
      } catch (const std::exception& failure) {
        auto who = part.peer < 0 ? std::string("a rank") : fmt::format("rank {}", part.peer);
        bool late = Clock::now() >= deadline;
        parts_.clear();
        if (late)
          throw Error(
              fmt::format("{}: {} did not come within {} s", where(call_), who, seconds(call_.timeout)));
        throw Error(fmt::format("{}: the connection to {} failed; it has probably died ({})", where(call_),
                                who, first_line(failure.what())));
      }
    }
    parts_.clear();
  }

 private:
  struct Part {
    Handle work;
    int peer;
    at::Tensor keep;
  };
  Call call_;
  std::vector<Part> parts_;
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
    auto work = one(backend_->allreduce(tensors, options), out, call);
    if (call.reduce != ReduceOp::mean) return work;
    return std::make_shared<ThenWork>(work, [out, n = size()]() mutable { out.div_(n); });
  }

  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override {
    c10d::BroadcastOptions options;
    options.rootRank = call.root;
    options.timeout = call.timeout;
    std::vector<at::Tensor> tensors{tensor};
    auto turn = turn_to_start();
    return one(backend_->broadcast(tensors, options), tensor, call);
  }

  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    auto work = std::make_shared<Transfers>(call);
    auto turn = turn_to_start();
    for (auto& message : receives) {  // receives first: what comes finds its place
      auto tag = next(received_[message.peer]);
      if (message.tensor.numel() == 0) continue;
      std::vector<at::Tensor> tensors{message.tensor};
      work->add(backend_->recv(tensors, message.peer, tag), message.peer, message.tensor);
    }
    for (auto& message : sends) {
      auto tag = next(sent_[message.peer]);
      if (message.tensor.numel() == 0) continue;
      std::vector<at::Tensor> tensors{message.tensor};
      work->add(backend_->send(tensors, message.peer, tag), message.peer, message.tensor);
    }
    return work;
  }

  std::shared_ptr<Transport> split(std::span<const int> members, std::chrono::milliseconds) override {
    if (!factory_)
      throw Error(
          "a group over a c10d backend of the user's own can be split only when it was given a factory for "
          "backends");
    auto list = fmt::format("{}", fmt::join(members, "-"));
    auto name = fmt::format("{}/{}#{}", name_, list, splits_[list]++);
    auto position = std::find(members.begin(), members.end(), rank()) - members.begin();
    auto backend = factory_(name, static_cast<int>(position), static_cast<int>(members.size()));
    return remake(std::move(backend), name);
  }

 protected:
  virtual std::shared_ptr<Transport> remake(c10::intrusive_ptr<c10d::Backend> backend,
                                            const std::string& name) const {
    return std::make_shared<C10d>(std::move(backend), factory_, name, device_);
  }

  std::shared_ptr<Work> one(Handle handle, at::Tensor keep, const Call& call) const {
    auto work = std::make_shared<Transfers>(call);
    work->add(std::move(handle), -1, std::move(keep));
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
    return backend_->getBackendName() == "gloo" ? std::unique_lock(starting) : std::unique_lock<std::mutex>();
  }

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

  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override {
    if (!even(counts)) return C10d::all_gather(out, in, counts, call);
    c10d::AllgatherOptions options;
    options.timeout = call.timeout;
    return one(backend_->_allgather_base(out, in, options), in, call);
  }

  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override {
    if (!even(counts)) return C10d::reduce_scatter(out, in, counts, call);
    c10d::ReduceScatterOptions options;
    options.reduceOp =
        call.reduce == ReduceOp::mean ? c10d::ReduceOp(c10d::ReduceOp::AVG) : reduce_op(call.reduce);
    options.timeout = call.timeout;
    return one(backend_->_reduce_scatter_base(out, in, options), in, call);
  }

  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override {
    c10d::AllToAllOptions options;
    options.timeout = call.timeout;
    std::vector<int64_t> to(in_counts.begin(), in_counts.end()), from(out_counts.begin(), out_counts.end());
    return one(backend_->alltoall_base(out, in, from, to, options), in, call);
  }

  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override {
    backend_->startCoalescing();
    auto parts = C10d::exchange(sends, receives, call);
    auto whole = backend_->endCoalescing();
    if (!whole) return parts;
    auto work = std::make_shared<Transfers>(call);
    work->add(whole, -1, {});
    for (auto& message : sends) work->add(whole, message.peer, message.tensor);
    return work;
  }

 protected:
  std::shared_ptr<Transport> remake(c10::intrusive_ptr<c10d::Backend> backend,
                                    const std::string& name) const override {
    return std::make_shared<Nccl>(std::move(backend), factory_, name);
  }

 private:
  static bool even(std::span<const int64_t> counts) {
    return std::all_of(counts.begin(), counts.end(), [&](int64_t n) { return n == counts[0]; });
  }
};

std::shared_ptr<Transport> nccl(const c10::intrusive_ptr<c10d::Store>& store, const Rendezvous& r) {
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
std::shared_ptr<gloo::transport::Device> gloo_device(const std::string& host) {
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
  return std::make_shared<C10d>(factory("world", r.rank, r.world_size), factory, "world", "cpu");
}
#else
std::shared_ptr<Transport> gloo(const c10::intrusive_ptr<c10d::Store>&, const Rendezvous&) {
  throw Error(
      "this build has no Gloo: configure with -DWANPAR_GLOO=ON where Gloo's headers are (libgloo-dev)");
}
#endif

c10::intrusive_ptr<c10d::Store> open_store(const Rendezvous& r) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(r.port);
  options.isServer = r.hosts_store;
  options.waitWorkers = false;
  options.timeout = r.timeout;
  try {
    return c10::make_intrusive<c10d::TCPStore>(r.host, options);
  } catch (const std::exception& failure) {
    if (r.hosts_store)
      throw Error(
          fmt::format("rank {}: port {} of this host is already held, by another program or by a second rank "
                      "0; set MASTER_PORT to a free port",
                      r.rank, r.port));
    throw Error(
        fmt::format("rank {}: no rank 0 answers at {}:{} within {} s; is it running, and are MASTER_ADDR and "
                    "MASTER_PORT the same on every rank? ({})",
                    r.rank, r.host, r.port, seconds(r.timeout), first_line(failure.what())));
  }
}

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

std::vector<uint8_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }
std::string text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

/// Ends this rank with the first failure of all; the one that hosts the store stays until the others have
/// read it too.
[[noreturn]] void end_with(c10d::Store& store, const Rendezvous& r, const std::string& why) {
  auto first = text(store.compareSet("failure", bytes(""), bytes(why)));
  auto read = store.add("read", 1);
  auto deadline = Clock::now() + std::chrono::seconds(2);
  while (r.hosts_store && read < store.add("come", 0) && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    read = store.add("read", 0);
  }
  throw Error(first);
}

/// Every rank reports once; what does not fit is written where all see it, so that all end with the same
/// sentence.
void report_and_wait(c10d::Store& store, const Rendezvous& r) {
  auto fail = [&](const std::string& why) { end_with(store, r, why); };
  store.add("come", 1);
  auto first =
      text(store.compareSet("world_size", bytes(""), bytes(fmt::format("{} {}", r.world_size, r.rank))));
  auto size = std::stoi(first);
  if (size != r.world_size)
    fail(fmt::format("rank {} was told of {} ranks, rank {} of {}; start every rank with the same world size",
                     r.rank, r.world_size, first.substr(first.find(' ') + 1), size));
  if (store.add(fmt::format("rank {}", r.rank), 1) > 1)
    fail(fmt::format("rank {} was started twice; give each process a rank of its own", r.rank));

  auto deadline = Clock::now() + r.timeout;
  for (std::vector<int> missing;; missing.clear()) {
    for (int rank = 0; rank < r.world_size; ++rank)
      if (!store.check({fmt::format("rank {}", rank)})) missing.push_back(rank);
    if (store.check({"failure"})) fail(text(store.get("failure")));
    if (missing.empty()) return;
    if (Clock::now() > deadline)
      fail(fmt::format("rank {} waited {} s for {} {} of {}, which never came", r.rank, seconds(r.timeout),
                       missing.size() > 1 ? "ranks" : "rank", fmt::join(missing, ", "), r.world_size));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

std::shared_ptr<Transport> c10d_transport(c10::intrusive_ptr<c10d::Backend> backend, BackendFactory factory) {
  return std::make_shared<C10d>(std::move(backend), std::move(factory), "user", "");
}

int cuda_devices() { return at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().deviceCount()) : 0; }

std::shared_ptr<Transport> meet(const Rendezvous& r) {
  QuietLog quiet;
  auto store = c10::make_intrusive<c10d::PrefixStore>("wanpar" + r.run, open_store(r));
  store->setTimeout(r.timeout);
  try {
    report_and_wait(*store, r);
    return r.device < 0 ? gloo(store, r) : nccl(store, r);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& failure) {
    throw Error(
        fmt::format("rank {}: the ranks could not be connected: {}", r.rank, first_line(failure.what())));
  }
}

}  // namespace wanpar
