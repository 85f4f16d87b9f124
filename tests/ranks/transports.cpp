#include "transports.hpp"

#include <doctest/doctest.h>
#include <wanpar/transport/checked.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include "worlds.hpp"

using wanpar::Communicator;

namespace {

void threads(const Claim& claim) {
  for (int ranks : {1, 2, 3, 4, 6, 8})
    wanpar::local::run(ranks, claim, {.timeout = std::chrono::seconds(30), .checks = wanpar::Checks::off});
}

void processes(const Claim& claim) { on_worlds(claim); }

Runner checked(const Runner& run) {
  return [=](const Claim& claim) {
    run([&](Communicator world) {
      auto is_alone = world.size() == 1;
      claim(is_alone ? world : Communicator(wanpar::checked(world.transport()), world.timeout()));
    });
  };
}

Runner recorded(const Runner& run) {
  return [=](const Claim& claim) { run([&](Communicator world) { claim(wanpar::Recording()(world)); }); };
}

}  // namespace

const std::vector<TransportCase>& transports() {
  static const std::vector<TransportCase> in_one_process{
      {"threads", threads},
      {"threads, checked", checked(threads)},
      {"threads, recorded", recorded(threads)},
      {"a c10d backend of the user's own", user_backends(Splits::yes)},
      {"a c10d backend of the user's own, checked", checked(user_backends(Splits::yes))},
  };
  static const std::vector<TransportCase> between_processes{
      {"processes", processes},
      {"processes, recorded", recorded(processes)},
  };
  return is_one_of_several_processes() ? between_processes : in_one_process;
}

void on_transports(const Claim& claim) {
  for (auto& transport : transports()) {
    INFO(transport.name);
    CHECK_NOTHROW(transport.run(claim));
  }
}
