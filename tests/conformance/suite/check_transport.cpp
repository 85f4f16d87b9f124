#include <fmt/format.h>

#include <exception>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/conformance/transport.hpp>

#include "transport_claims.hpp"

namespace wanpar::conformance {

const std::vector<TransportClaim>& transport_claims() {
  static const auto all = [] {
    auto claims = claims_of_reductions();
    for (auto more : {claims_of_movements(), claims_of_groups()})
      claims.insert(claims.end(), more.begin(), more.end());
    return claims;
  }();
  return all;
}

void check_transport(const Communicator& world) {
  for (auto& claim : transport_claims()) try {
      claim.check(world);
    } catch (const std::exception& error) {
      throw Error(fmt::format("of {} ranks, rank {}: '{}' does not hold: {}", world.size(), world.rank(),
                              claim.name, error.what()));
    }
}

}  // namespace wanpar::conformance
