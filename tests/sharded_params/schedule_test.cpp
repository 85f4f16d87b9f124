// In which order units are gathered, resharded and reduced: decisions alone, without a tensor.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "module/shard_schedule.hpp"

using wanpar::Reshard;
using wanpar::ShardSchedule;

namespace schedule_test {
namespace {

using Units = std::vector<int>;
using Reductions = std::vector<size_t>;

/// Does what the schedule says.
class Rank {
 public:
  Rank(int units, int64_t prefetch, Reshard reshard = Reshard::after_use)
      : schedule(prefetch, reshard), units_(units) {}

  /// What moved, as "-0 +2 =1": unit 0 was resharded, 2 began to be gathered, 1 was waited for.
  std::string forward(const Units& needed) { return need(needed, false); }
  std::string backward(const Units& needed) { return need(needed, true); }
  void reshard_all() { units_.assign(units_.size(), wanpar::Shards::away); }

  ShardSchedule schedule;

 private:
  std::string need(const Units& needed, bool in_backward) {
    std::string text;
    const auto move = [&](char sign, const Units& units, wanpar::Shards to) {
      for (int unit : units) {
        text += (text.empty() ? "" : " ") + std::string(1, sign) + std::to_string(unit);
        units_[unit] = to;
      }
    };
    const auto moves = schedule.need(needed, units_, in_backward);
    move('-', moves.reshard, wanpar::Shards::away);
    move('+', moves.gather, wanpar::Shards::coming);
    move('=', moves.wait, wanpar::Shards::resident);
    return text;
  }
  std::vector<wanpar::Shards> units_;
};

void three_units_forward(Rank& rank) {
  rank.reshard_all();
  rank.schedule.begin_forward();
  for (int unit : {0, 1, 2}) rank.forward({unit});
  rank.schedule.end_pass();
}

}  // namespace

TEST_CASE("the first forward gathers what is needed, the next one what comes after it too") {
  Rank rank(3, 1);
  rank.schedule.begin_forward();
  CHECK(rank.forward({0}) == "+0 =0");
  CHECK(rank.forward({0}) == "");
  CHECK(rank.forward({1}) == "+1 =1");
  CHECK(rank.forward({2}) == "-0 +2 =2");
  CHECK(rank.forward({2}) == "");
  rank.schedule.end_pass();

  rank.reshard_all();
  rank.schedule.begin_forward();
  CHECK(rank.forward({0}) == "+0 +1 =0");
  CHECK(rank.forward({1}) == "-0 +2 =1");
  CHECK(rank.forward({2}) == "=2");
}

TEST_CASE("a backward needs the units of its forward in reverse, until one has been seen that does not") {
  Rank rank(3, 1);
  three_units_forward(rank);
  rank.schedule.begin_backward();
  CHECK(rank.backward({2}) == "");  // 1 and 2 are resident, and 1 is next
  CHECK(rank.backward({1}) == "-2 +0");
  CHECK(rank.backward({0}) == "=0");

  three_units_forward(rank);
  rank.schedule.begin_backward();
  CHECK(rank.backward({2}) == "");
  CHECK(rank.backward({0}) == "-1 +0 =0");  // not as it was, which is learnt

  three_units_forward(rank);
  rank.schedule.begin_backward();
  CHECK(rank.backward({2}) == "-1 +0");
  CHECK(rank.backward({0}) == "=0");
}

TEST_CASE("an operator has all units that it needs, with any prefetch") {
  Rank rank(4, 0);
  rank.schedule.begin_forward();
  CHECK(rank.forward({0, 2, 3}) == "+0 +2 +3 =0 =2 =3");
  CHECK(rank.forward({2}) == "");
  CHECK(rank.forward({1}) == "-0 -2 -3 +1 =1");
}

TEST_CASE("units that are used again stay where there is room") {
  Rank rank(3, 2);
  rank.schedule.begin_forward();
  for (int unit : {0, 1, 0, 2, 0}) rank.forward({unit});
  CHECK(rank.forward({1}) == "");
  Rank narrow(3, 1);
  narrow.schedule.begin_forward();
  CHECK(narrow.forward({0}) == "+0 =0");
  CHECK(narrow.forward({1}) == "+1 =1");
  CHECK(narrow.forward({0}) == "");
  CHECK(narrow.forward({2}) == "-1 +2 =2");  // 0 was used last
}

TEST_CASE("nothing is resharded within a pass where the whole pass keeps its units") {
  for (auto reshard : {Reshard::after_backward, Reshard::at_next_forward}) {
    Rank rank(3, 0, reshard);
    rank.schedule.begin_forward();
    for (int unit : {0, 1, 2}) CHECK(rank.forward({unit}).find('-') == std::string::npos);
    CHECK(rank.forward({0}) == "");
    CHECK(rank.schedule.reshards_after_pass() == (reshard == Reshard::after_backward));
  }
}

TEST_CASE("a reduction leaves when it is complete and has its turn, and at the latest when its turn ends") {
  ShardSchedule schedule(1, Reshard::after_use);
  for (int64_t gathers : {0, 1, 1, 2}) schedule.add_reduction(gathers, false);
  schedule.begin_gathers();
  schedule.begin_gradients();
  schedule.gradient_arrived(1, true);
  CHECK(schedule.complete_reductions() == Reductions{});  // 0 comes first
  schedule.gradient_arrived(0, false);
  CHECK(schedule.complete_reductions() == Reductions{});
  schedule.gradient_arrived(0, true);
  CHECK(schedule.complete_reductions() == Reductions{0});  // 1 comes behind a gather
  CHECK(schedule.reductions_before_gather() == Reductions{});
  CHECK(schedule.complete_reductions() == Reductions{1});
  CHECK(schedule.reductions_before_gather() == Reductions{2});  // incomplete, and its turn is over
  CHECK(schedule.complete_reductions() == Reductions{});
  CHECK(schedule.remaining_reductions() == Reductions{3});
  CHECK(schedule.remaining_reductions() == Reductions{});
}

TEST_CASE("idle reductions are passed over") {
  ShardSchedule schedule(1, Reshard::after_use);
  for (int i = 0; i < 3; ++i) schedule.add_reduction(0, i == 0);
  schedule.begin_gradients();
  schedule.gradient_arrived(1, true);
  CHECK(schedule.complete_reductions() == Reductions{1});
  CHECK(schedule.remaining_reductions() == Reductions{2});
  schedule.set_idle(0, false);
  schedule.begin_gradients();
  CHECK(schedule.remaining_reductions() == Reductions{0, 1, 2});
}

TEST_CASE("the order of gradients that one rank has seen is adopted, what had none comes last") {
  ShardSchedule schedule(1, Reshard::after_use);
  for (int i = 0; i < 3; ++i) schedule.add_reduction(0, false);
  schedule.begin_gathers();
  schedule.begin_gradients();
  schedule.reductions_before_gather();
  schedule.gradient_arrived(2, false);
  schedule.gradient_arrived(0, true);
  schedule.reductions_before_gather();
  schedule.gradient_arrived(2, true);
  const auto seen = schedule.seen_reductions();
  CHECK(seen == std::vector<int64_t>{0, 2, 1, 1, 2, 2});

  ShardSchedule other(1, Reshard::after_use);
  for (int i = 0; i < 3; ++i) other.add_reduction(0, false);
  other.adopt(seen);
  other.begin_gathers();
  other.begin_gradients();
  CHECK(other.reductions_before_gather() == Reductions{});
  CHECK(other.reductions_before_gather() == Reductions{0});
  CHECK(other.remaining_reductions() == Reductions{2, 1});
}

}  // namespace schedule_test
