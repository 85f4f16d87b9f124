// A strategy of your own: linear layers whose outputs are sharded over ranks (Megatron's column parallel
// layer), in any module, with gradients. It intercepts the operators that the module calls and replaces
// linear: each rank computes some columns of the result, which are all-gathered. Two linear maps and their
// adjoints give single-rank gradients: the gradient of a replicated tensor is all-reduced, that of a gathered
// one is sliced to the rank's own columns. wanpar::conformance checks it with any module: results and
// gradients, in float64 and float32, with sizes that the number of ranks does not divide.
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
