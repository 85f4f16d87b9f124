#include <ATen/record_function.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>
#include <wanpar/transport/tracing.hpp>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "worlds.hpp"

using nlohmann::json;
using wanpar::Communicator;

namespace tracing_test {
namespace {

constexpr int kRanks = 3;

/// A bit of each kind of call, some of them under way together, under names that JSON has to quote.
void work(const Communicator& world) {
  RECORD_USER_SCOPE("the \"work\"");
  auto x = at::ones({4, 6});
  std::this_thread::sleep_for(std::chrono::milliseconds(5 * (1 + world.rank())));
  auto sum = world.about("a \\ \"tensor\"").all_reduce(x);
  auto all = world.all_gather(x);
  (void)sum.get();
  (void)all.get();
  {
    RECORD_USER_SCOPE("inner");
    auto part = world.split(world.rank() == 2 ? 1 : 0);
    (void)part.broadcast(x).get();
    world.barrier();
  }
  { auto dropped = world.reduce_scatter(at::ones({6, 2})); }
}

struct Traced {
  json events;
  std::map<wanpar::Operation, wanpar::Traffic> totals;
};

const Traced& traced() {
  static const Traced once = [] {
    Traced result;
    wanpar::Recording recording;
    wanpar::local::run(kRanks, [&](Communicator world) {
      wanpar::Tracing tracing;
      work(tracing(recording(world)));
      auto text = tracing.of_all(world);
      require(text.empty() == (world.rank() > 0), "rank 0 has the text");
      if (world.rank() == 0) result.events = json::parse(text).at("traceEvents");
    });
    result.totals = recording.totals();
    return result;
  }();
  return once;
}

std::vector<json> of_phase(const std::string& phase) {
  std::vector<json> found;
  for (auto& event : traced().events)
    if (event.at("ph") == phase) found.push_back(event);
  return found;
}

double end_of(const json& slice) { return slice.at("ts").get<double>() + slice.at("dur").get<double>(); }

}  // namespace

TEST_CASE("a trace has a named process for each rank, with scopes, computing and waits") {
  std::map<int, std::set<std::string>> kinds;
  for (auto& slice : of_phase("X")) kinds[slice.at("pid")].insert(slice.at("cat").get<std::string>());
  REQUIRE(kinds.size() == kRanks);
  const std::set<std::string> all_kinds{"begin", "compute", "scope", "wait"};
  for (auto& [rank, found] : kinds) CHECK(found == all_kinds);
  std::set<std::string> names;
  for (auto& event : of_phase("M"))
    if (event.at("name") == "process_name") names.insert(event.at("args").at("name").get<std::string>());
  const std::set<std::string> all_names{"rank 0", "rank 1", "rank 2"};
  CHECK(names == all_names);
}

TEST_CASE("what a rank does lies one inside the other") {
  std::map<std::pair<int, int>, std::vector<json>> tracks;
  for (auto& slice : of_phase("X")) tracks[{slice.at("pid"), slice.at("tid")}].push_back(slice);
  for (auto& [track, slices] : tracks) {
    std::vector<double> open;
    for (auto& slice : slices) {  // the file has them by their begin, the outermost first
      while (!open.empty() && open.back() <= slice.at("ts").get<double>() + 1e-6) open.pop_back();
      if (!open.empty()) CHECK_MESSAGE(end_of(slice) <= open.back() + 1e-6, slice.dump());
      open.push_back(end_of(slice));
    }
  }
  for (int rank = 0; rank < kRanks; ++rank) {
    const auto slices = of_phase("X");
    const auto named = [&](const std::string& name) {
      return std::ranges::find_if(slices,
                                  [&](auto& s) { return s.at("pid") == rank && s.at("name") == name; });
    };
    const auto outer = named("the \"work\""), inner = named("inner"), wait = named("wait barrier");
    REQUIRE(outer != slices.end());
    REQUIRE(inner != slices.end());
    REQUIRE(wait != slices.end());
    CHECK(outer->at("ts") <= inner->at("ts"));
    CHECK(end_of(*inner) <= end_of(*outer));
    CHECK(inner->at("ts") <= wait->at("ts"));
    CHECK(end_of(*wait) <= end_of(*inner));
    double computed = 0;
    for (auto& slice : slices)
      if (slice.at("pid") == rank && slice.at("cat") == "compute") computed += slice.at("dur").get<double>();
    CHECK(computed >= 5000 * (1 + rank));  // in microseconds, as it slept
  }
}

TEST_CASE("each transfer that a Recording has counted is in the trace, from its begin to its end") {
  std::map<std::string, wanpar::Traffic> shown;
  std::map<std::string, double> begun;
  const auto key = [](const json& event) {
    return fmt::format("{} {}", event.at("pid").get<int>(), event.at("id2").at("local").get<std::string>());
  };
  for (auto& event : of_phase("b")) {
    auto& traffic = shown[event.at("name")];
    ++traffic.calls;
    traffic.bytes += event.at("args").at("bytes").get<int64_t>();
    CHECK(begun.emplace(key(event), event.at("ts").get<double>()).second);
  }
  CHECK(of_phase("e").size() == begun.size());
  for (auto& event : of_phase("e")) CHECK(event.at("ts").get<double>() >= begun.at(key(event)));

  REQUIRE(traced().totals.size() == shown.size());
  for (auto& [operation, traffic] : traced().totals) {
    CAPTURE(wanpar::name(operation));
    CHECK(shown[wanpar::name(operation)].calls == traffic.calls);
    CHECK(shown[wanpar::name(operation)].bytes == traffic.bytes);
  }
  bool says_what = std::ranges::any_of(of_phase("b"), [](auto& event) {
    return event.at("args").at("call").template get<std::string>().find("a \\ \"tensor\"") !=
           std::string::npos;
  });
  CHECK(says_what);
}

TEST_CASE("a rank alone has a trace of its scopes, and nothing is written down behind it") {
  wanpar::Tracing tracing;
  auto alone = tracing(Communicator());
  { RECORD_USER_SCOPE("alone"); }
  auto events = json::parse(tracing.of_all(alone)).at("traceEvents");
  CHECK(std::ranges::any_of(events, [](auto& event) { return event.at("name") == "alone"; }));
}

}  // namespace tracing_test
