// A stranger's own transport, or here one that is known to be right, against what every transport must do.
#include <wanpar/extend/conformance/transport.hpp>
#include <wanpar/transport/local.hpp>

#include <iostream>

int main() {
  wanpar::local::run(2, wanpar::conformance::check_transport);
  std::cout << "conformance: " << wanpar::conformance::transport_claims().size() << " claims hold\n";
}
