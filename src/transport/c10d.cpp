// LibTorch's process groups behind our Transport.
#include "transport/c10d.hpp"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <cstdlib>
#include <numeric>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/c10d.hpp>

#include "core/sentence.hpp"
#include "transport/c10d_backends.hpp"
#include "transport/c10d_group.hpp"
#include "transport/c10d_quiet_log.hpp"
#include "transport/c10d_rendezvous.hpp"
#include "transport/c10d_store.hpp"
#include "transport/deadline.hpp"

namespace wanpar {

std::shared_ptr<Transport> c10d_transport(c10::intrusive_ptr<c10d::Backend> backend, BackendFactory factory) {
  MakeBackend make;
  if (factory)
    make = [factory](const std::string& name, int rank, int size, const Wait&) {
      return factory(name, rank, size);
    };
  auto membership = std::make_shared<Membership>(RunGroup{"user", {}});
  if (backend->getBackendName() == "gloo")
    return over_users_gloo(std::move(backend), std::move(make), std::move(membership));
  if (backend->getBackendName() == "nccl")
    return over_users_nccl(std::move(backend), std::move(make), std::move(membership));
  return std::make_shared<C10d>(std::move(backend), std::move(make), std::move(membership), "");
}

std::shared_ptr<Membership> world_of(const Meeting& meeting, const Rendezvous& r) {
  RunGroup all{"world", std::vector<int>(r.world_size)};
  std::iota(all.members.begin(), all.members.end(), 0);
  return std::make_shared<Membership>(std::move(all), meeting.pulse);
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
    return r.device < 0 ? over_gloo(meeting, r, call) : over_nccl(meeting, r, call);
  } catch (const Error&) {
    throw;
  } catch (const StoreLost& failure) {
    throw PeerLostError(fmt::format("rank {}: the ranks could not be connected: {}", r.rank, failure.what()));
  } catch (const std::exception& failure) {
    throw Error(
        fmt::format("rank {}: the ranks could not be connected: {}", r.rank, first_line(failure.what())));
  }
}

}  // namespace wanpar
