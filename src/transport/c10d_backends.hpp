#pragma once
#include <memory>
#include <string>

#include "transport/c10d.hpp"
#include "transport/c10d_group.hpp"
#include "transport/c10d_rendezvous.hpp"

namespace wanpar {

/// The group of all ranks that have met, over Gloo or NCCL. Throws UsageError if this build lacks the
/// backend.
std::shared_ptr<Transport> over_gloo(const Meeting& meeting, const Rendezvous& rendezvous, const Call& call);
std::shared_ptr<Transport> over_nccl(const Meeting& meeting, const Rendezvous& rendezvous, const Call& call);

/// This rank's membership in the group of all.
std::shared_ptr<Membership> world_of(const Meeting& meeting, const Rendezvous& rendezvous);

/// As above, over a backend that the user has made.
std::shared_ptr<Transport> over_users_gloo(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend make,
                                           std::shared_ptr<const Membership> membership);
std::shared_ptr<Transport> over_users_nccl(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend make,
                                           std::shared_ptr<const Membership> membership);

/// A name that is unique to a CUDA device; empty if this build has no CUDA.
std::string name_of_device(int device);

}  // namespace wanpar
