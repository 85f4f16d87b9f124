// A transport of your own. A Communicator uses a Transport: seven functions that move flat tensors between
// ranks, and split. Here (post.hpp) two of the seven are written, over letters in a mailbox that threads
// share (mailbox.hpp), and Pairwise provides the others. wanpar::conformance checks that it does what every
// transport must do. Strategies run over it as over any other; checked() lets ranks compare each call before
// any transfer.
//
//     build/bin/08_own_transport
#include <torch/torch.h>
#include <wanpar/extend/conformance/transport.hpp>
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
      auto post = std::make_shared<Post>(mailbox, std::vector{0, 1, 2}, rank);
      wanpar::conformance::check_transport(wanpar::Communicator(post, std::chrono::seconds(10)));

      torch::NoGradGuard no_grad;
      wanpar::Communicator world(wanpar::checked(post));
      auto model =
          linear | wanpar::data_parallel({.group = world});  // the batch of 7 is split, its result gathered
      return (model(x) - expected).abs().max().item<float>();
    }));
  float difference = 0;
  for (auto& rank : ranks) difference += rank.get();
  std::cout << kRanks << " ranks over a mailbox and one rank differ by " << difference << "; "
            << wanpar::conformance::transport_claims().size() << " claims on transports hold\n";
  return difference < 1e-6 ? 0 : 1;
}
