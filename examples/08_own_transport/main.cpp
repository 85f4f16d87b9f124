// A transport of one's own. A Communicator stands on a Transport: seven functions that move flat tensors
// between ranks, and split. Here (post.hpp) all are one trade of letters in a mailbox that threads share
// (mailbox.hpp). Strategies run over it as over any other; checked() lets ranks compare each call before
// anything moves.
//
//     build/bin/08_own_transport
#include <torch/torch.h>
#include <wanpar/wanpar.hpp>

#include <iostream>
#include <thread>

#include "post.hpp"

int main() {
  constexpr int kRanks = 3;
  torch::nn::Linear linear(8, 4);
  auto x = torch::randn({7, 8});
  auto expected = linear(x).detach();

  auto mailbox = std::make_shared<Mailbox>();
  std::vector<std::future<float>> ranks;
  for (int rank = 0; rank < kRanks; ++rank)
    ranks.push_back(std::async(std::launch::async, [&, rank] {
      torch::NoGradGuard no_grad;
      wanpar::Communicator world(
          wanpar::checked(std::make_shared<Post>(mailbox, std::vector{0, 1, 2}, rank)));
      auto model =
          linear | wanpar::data_parallel({.group = world});  // the batch of 7 is split, its result gathered
      return (model(x) - expected).abs().max().item<float>();
    }));
  float difference = 0;
  for (auto& rank : ranks) difference += rank.get();
  std::cout << kRanks << " ranks over a mailbox and one rank differ by " << difference << "\n";
  return difference < 1e-6 ? 0 : 1;
}
