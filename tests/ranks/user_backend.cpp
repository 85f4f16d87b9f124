#include <future>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <wanpar/transport/c10d.hpp>

#include "transports.hpp"

namespace {

void run(int ranks, const Claim& claim, Splits splits) {
  auto store = c10::make_intrusive<c10d::HashStore>();
  auto make = [&](const std::string& name, int rank, int size) {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::seconds(30));
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
    auto own = c10::make_intrusive<c10d::PrefixStore>(name, store);
    return c10::make_intrusive<c10d::ProcessGroupGloo>(own, rank, size, options);
  };
  auto factory = splits == Splits::yes ? make : wanpar::BackendFactory();
  std::vector<std::future<void>> each;
  for (int rank = 0; rank < ranks; ++rank)
    each.push_back(std::async(std::launch::async, [&, rank] {
      auto transport = wanpar::c10d_transport(make("world", rank, ranks), factory);
      claim(wanpar::Communicator(transport, std::chrono::seconds(30)));
    }));
  for (auto& one : each) one.wait();
  for (auto& one : each) one.get();
}

}  // namespace

Runner user_backends(Splits splits) {
  return [=](const Claim& claim) {
    for (int ranks : {2, 3}) run(ranks, claim, splits);
  };
}
