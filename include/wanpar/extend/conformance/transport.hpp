#pragma once
#include <wanpar/core/communicator.hpp>

#include <functional>
#include <string>
#include <vector>

// What every transport must do, whatever moves the bytes.
namespace wanpar::conformance {

/// One thing that a group over any transport does, on any number of ranks. Collective; throws Error where it
/// does not.
struct TransportClaim {
  std::string name;
  std::function<void(Communicator world)> check;
};

/// All of them: reductions and movements in every dtype, even and uneven, in any order, in groups of groups.
const std::vector<TransportClaim>& transport_claims();

/// Collective. Makes every claim of this group. Throws Error, which names the claim that does not hold. To be
/// tried with groups of several sizes; give the Communicator a timeout of seconds, and a transport that is
/// wrong ends soon.
void check_transport(const Communicator& world);

}  // namespace wanpar::conformance
