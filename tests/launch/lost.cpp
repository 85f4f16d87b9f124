// Makes one call again and again until it fails, then says what was thrown: what tests/launch/lost.py loses
// ranks of. Usage: lost OPERATION [--unchecked] [--returns], rank 1 early with the last.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <thread>
#include <wanpar/launch/connect.hpp>

using wanpar::Communicator;

namespace {

/// As the stages of a pipeline: an activation to the next one, a gradient back.
void pipeline(const Communicator& world, const at::Tensor& x) {
  std::vector<wanpar::Send> gradients, activations;
  std::vector<wanpar::Receive> from_previous, from_next;
  if (world.rank() > 0) {
    gradients.push_back({x, world.rank() - 1});
    from_previous.push_back({x.sizes().vec(), x.options(), world.rank() - 1});
  }
  if (world.rank() + 1 < world.size()) {
    activations.push_back({x, world.rank() + 1});
    from_next.push_back({x.sizes().vec(), x.options(), world.rank() + 1});
  }
  (void)world.exchange({}, from_previous).get();
  (void)world.exchange(activations, {}).get();
  (void)world.exchange({}, from_next).get();
  (void)world.exchange(gradients, {}).get();
}

const std::map<std::string, std::function<void(const Communicator&, const at::Tensor&)>> kOperations{
    {"all_reduce", [](auto& world, auto& x) { (void)world.all_reduce(x).get(); }},
    {"broadcast", [](auto& world, auto& x) { (void)world.broadcast(x).get(); }},
    {"all_gather", [](auto& world, auto& x) { (void)world.all_gather(x).get(); }},
    {"barrier", [](auto& world, auto&) { world.barrier(); }},
    {"pipeline", pipeline},
    {"subgroup",
     [](auto& world, auto&) {  // of those who do not keep the store
       if (world.rank() > 0) return world.subgroup(std::vector{1, 2}).barrier();
       std::this_thread::sleep_for(std::chrono::milliseconds(1));
     }},
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    auto& operation = words.at(0);
    bool is_unchecked = std::ranges::count(words, "--unchecked"),
         returns = std::ranges::count(words, "--returns");
    auto world = wanpar::connect({.checks = is_unchecked ? wanpar::Checks::off : wanpar::Checks::on,
                                  .timeout = std::chrono::seconds(5)});
    auto x = at::ones({10'000});
    for (int64_t i = 0;; ++i) {
      kOperations.at(operation)(world, x);
      if (i == 10) fmt::print("connected\n"), std::fflush(stdout);
      if (i == 200 && returns && world.rank() == 1) return 0;
    }
  } catch (const wanpar::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 3;
  }
}
