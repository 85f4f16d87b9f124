// NCCL, on GPUs.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#ifdef USE_C10D_NCCL
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <cstdlib>
#include <wanpar/core/error.hpp>

#include "transport/c10d_backends.hpp"

namespace wanpar {

#ifdef USE_C10D_NCCL
namespace {

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

  c10::intrusive_ptr<c10d::Work> end() { return std::exchange(backend_, nullptr)->endCoalescing(); }

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
    options.timeout = limit(call);
    return one(in, call, [&] { return backend_->_allgather_base(out, in, options); });
  }

  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override {
    if (!even(counts)) return C10d::reduce_scatter(out, in, counts, call);
    c10d::ReduceScatterOptions options;
    options.reduceOp = reduce_op(call.reduce);
    options.timeout = limit(call);
    return one(in, call, [&] { return backend_->_reduce_scatter_base(out, in, options); });
  }

  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override {
    c10d::AllToAllOptions options;
    options.timeout = limit(call);
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

  Waiting waiting() const override { return {.looks = true}; }
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

}  // namespace

std::string name_of_device(int device) {
  auto* uuid = at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(device))->uuid.bytes;
  return fmt::format("{:02x}", fmt::join(reinterpret_cast<const uint8_t*>(uuid),
                                         reinterpret_cast<const uint8_t*>(uuid) + 16, ""));
}

std::shared_ptr<Transport> over_users_nccl(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend make,
                                           std::shared_ptr<const Membership> membership) {
  return std::make_shared<Nccl>(std::move(backend), std::move(make), std::move(membership));
}

std::shared_ptr<Transport> over_nccl(const Meeting& meeting, const Rendezvous& r, const Call& call) {
  // Whoever waits here is told what failed. LibTorch's watchdog, which does not run then, would end the
  // process a minute later, whoever has caught the error, and an exit would wait for it.
  setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(r.device));
  MakeBackend make = [store = meeting.store](const std::string& name, int rank, int size, const Wait& wait) {
    auto limit = wait.limit(std::chrono::milliseconds(1));
    store->setTimeout(limit);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = limit;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>(name, store),
                                                       rank, size, options);
  };
  auto world = world_of(meeting, r);
  return C10d::connected(call, *world, [&](const Wait& wait) {
    return std::make_shared<OwnNccl>(make(world->name(), r.rank, r.world_size, wait), make, world);
  });
}

#else
std::string name_of_device(int) { return {}; }

std::shared_ptr<Transport> over_users_nccl(c10::intrusive_ptr<c10d::Backend>, MakeBackend,
                                           std::shared_ptr<const Membership>) {
  throw UsageError("this build has no NCCL: it cannot carry a group over an NCCL backend");
}

std::shared_ptr<Transport> over_nccl(const Meeting&, const Rendezvous&, const Call&) {
  throw UsageError(
      "this build has no NCCL: it was configured where no CUDA toolkit was found; use Gloo, or build where "
      "one is");
}
#endif

}  // namespace wanpar
