#pragma once
#include <wanpar/extend/conformance/transport.hpp>

#include <vector>

namespace wanpar::conformance {

/// What is reduced, and what is moved.
std::vector<TransportClaim> claims_of_reductions();
std::vector<TransportClaim> claims_of_movements();
/// Whose tensor it is, in which order calls end, which groups there are, what is refused.
std::vector<TransportClaim> claims_of_groups();

}  // namespace wanpar::conformance
