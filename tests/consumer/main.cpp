// A stranger's own module, which knows nothing of wanpar.
#include <torch/nn.h>
#include <torch/types.h>
#include <wanpar/core/error.hpp>
#include <wanpar/module/annotations.hpp>

#include <iostream>

int main() {
  torch::nn::Linear module(4, 4);
  auto x = torch::randn({2, 3, 4});
  auto y = wanpar::gather_sequence(module(wanpar::split_sequence(x, 1)), 1);
  if (!torch::equal(y, module(x))) throw wanpar::Error("the annotations changed the result");
  std::cout << "consumer: as on one rank\n";
}
