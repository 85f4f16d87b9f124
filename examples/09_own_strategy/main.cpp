// A strategy of one's own: linear layers whose outputs are split over ranks (Megatron's column parallel
// layer), in any module, with gradients. It meets the operators that the module calls and takes the place of
// their product: each rank computes some columns of the result, and all are gathered. Two maps and their
// adjoints make the gradients those of one rank: what is the same on all ranks has the sum of their
// gradients, what is gathered hands each its own columns'. wanpar::conformance says whether it is right for
// any module: results and gradients, in float64 and float32, of shapes that ranks do not divide.
//
//     rank 0   x ─▶ weight[0:h] ─┐
//     rank 1   x ─▶ weight[h: ] ─┴▶ gather ─▶ y
//
//     build/bin/09_own_strategy
#include <torch/torch.h>
#include <wanpar/extend/conformance/strategy.hpp>
#include <wanpar/wanpar.hpp>

#include <iostream>

#include "strategy.hpp"

namespace conformance = wanpar::conformance;

int main() {
  const conformance::Strategy columns{
      "columns", [](wanpar::Model model, const conformance::Subject&, Communicator world) {
        wanpar::Model whole = model | column_parallel(world);
        return conformance::WrappedSubject{whole, conformance::gradients_of(whole)};
      }};
  wanpar::local::run(3, [&](Communicator world) {
    conformance::check_strategy(columns, world);

    torch::nn::Sequential net(torch::nn::Conv1d(3, 3, 1), torch::nn::Tanh());
    try {
      (net | column_parallel(world))(torch::randn({2, 3, 4}));
    } catch (const wanpar::Error& error) {
      if (world.rank() == 0) std::cout << "a module without linear layers: " << error.what() << "\n";
      return;
    }
    throw wanpar::Error("a strategy that does nothing was not told");
  });
  std::cout << conformance::subjects().size() << " modules do on three ranks what they do on one\n";
}
