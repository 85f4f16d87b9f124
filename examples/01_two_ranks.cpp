// Two ranks in one process. A rank is one of several workers that run the same program; a Communicator
// connects it to the others. Ranks are processes under torchrun or mpirun (02_data_parallel.cpp); here they
// are threads, which is convenient for developing and debugging a parallel program on a laptop. Each call is
// collective (all ranks make it) and asynchronous: get() waits for its result.
//
//     build/bin/01_two_ranks
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>

namespace {

void expect(const torch::Tensor& x, const torch::Tensor& expected) {
  if (!torch::equal(x, expected)) throw wanpar::Error("another result was expected");
}

void program(wanpar::Communicator world) {
  int rank = world.rank(), other = 1 - rank;
  auto mine = torch::full({rank + 1}, rank + 1);  // rank 0 has [1], rank 1 has [2, 2]

  auto sum = world.all_reduce(mine.sum());
  std::vector<int64_t> lengths{1, 2};
  auto joined = world.all_gather(mine, 0, lengths);  // sizes may be uneven
  expect(sum.get(), torch::tensor(5));               // 1 + 2 + 2: both calls were in flight at once
  expect(joined.get(), torch::tensor({1, 2, 2}));

  auto from_0 = world.broadcast(mine.sum(), 0).get();
  expect(from_0, torch::tensor(1));

  auto received = world.exchange({{mine, other}}, {{{other + 1}, torch::kLong, other}}).get();
  expect(received[0], torch::full({other + 1}, other + 1));

  if (rank == 0) std::cout << "two ranks: the sum of [1] and [2, 2] is 5 on both\n";
}

}  // namespace

int main() {
  wanpar::local::run(2, program);  // throws what a rank throws
}
