// Makes one call again and again until it fails, then says what was thrown, and its kind by the exit code:
// what tests/launch/lost.py loses ranks of. Usage: lost OPERATION [--unchecked] [--returns] [--once], rank 1
// early with the one before the last.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
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

/// Rank 0 does what no call of the library interrupts, and all others wait for it.
void work(const Communicator& world, std::chrono::seconds time) {
  if (world.rank() == 0) std::this_thread::sleep_for(time);
  world.barrier();
}

/// Ranks 0 and 1 each wait for the other to send.
void wait_for_each_other(const Communicator& world) {
  if (world.rank() < 2) (void)world.exchange({}, {{{1}, at::kFloat, 1 - world.rank()}}).get();
}

const std::map<std::string, std::function<void(const Communicator&, const at::Tensor&)>> kOperations{
    {"all_reduce", [](auto& world, auto& x) { (void)world.all_reduce(x).get(); }},
    {"broadcast", [](auto& world, auto& x) { (void)world.broadcast(x).get(); }},
    {"all_gather", [](auto& world, auto& x) { (void)world.all_gather(x).get(); }},
    {"barrier", [](auto& world, auto&) { world.barrier(); }},
    {"pipeline", pipeline},
    {"busy", [](auto& world, auto&) { work(world, std::chrono::seconds(60)); }},
    {"slow", [](auto& world, auto&) { work(world, std::chrono::seconds(6)); }},
    {"apart", [](auto& world, auto&) { wait_for_each_other(world); }},
    {"subgroup",
     [](auto& world, auto&) {  // of those who do not keep the store
       if (world.rank() > 0) return world.subgroup(std::vector{1, 2}).barrier();
       std::this_thread::sleep_for(std::chrono::milliseconds(1));
     }},
};

/// What a wait or a wrong call came to.
int status_of(const wanpar::Error& error) {
  if (dynamic_cast<const wanpar::PeerLostError*>(&error)) return 3;
  if (dynamic_cast<const wanpar::TimeoutError*>(&error)) return 4;
  if (dynamic_cast<const wanpar::MismatchError*>(&error)) return 5;
  if (dynamic_cast<const wanpar::UsageError*>(&error)) return 6;
  return 7;
}

int say(const wanpar::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return status_of(error);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> words(argv + 1, argv + argc);
    const auto has = [&](const char* word) { return std::ranges::count(words, word) > 0; };
    auto& operation = words.at(0);
    const bool is_waited_for = operation == "busy" || operation == "slow";
    wanpar::ConnectOptions options{.checks = has("--unchecked") ? wanpar::Checks::off : wanpar::Checks::on,
                                   .timeout = std::chrono::seconds(60)};
    std::atomic<bool> works = false;
    options.on_lost = [&](const wanpar::PeerLostError& error) {
      if (works) std::_Exit(say(error));
    };
    auto world = wanpar::connect(options).with_timeout(std::chrono::seconds(is_waited_for ? 1 : 5));
    works = is_waited_for && world.rank() == 0;
    auto x = at::ones({10'000});
    if (is_waited_for || operation == "apart") fmt::print("connected\n"), std::fflush(stdout);
    for (int64_t i = 0;; ++i) {
      kOperations.at(operation)(world, x);
      if (i == 10) fmt::print("connected\n"), std::fflush(stdout);
      if (has("--once") || (i == 200 && has("--returns") && world.rank() == 1)) return 0;
    }
  } catch (const wanpar::Error& error) {
    return say(error);
  }
}
