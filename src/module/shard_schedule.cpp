#include "module/shard_schedule.hpp"

#include <algorithm>
#include <limits>

namespace wanpar {
namespace {

bool contains(const std::vector<int>& units, int unit) {
  return std::find(units.begin(), units.end(), unit) != units.end();
}

}  // namespace

void ShardSchedule::begin_forward() {
  forward_.begin_pass();
  needed_.clear();
}

void ShardSchedule::begin_backward() {
  const auto seen = forward_.seen();
  backward_.begin_pass({seen.rbegin(), seen.rend()});
  needed_.clear();
}

void ShardSchedule::forget_orders() {
  forward_ = {}, backward_ = {};
  needed_.clear();
}

ShardSchedule::Moves ShardSchedule::need(const std::vector<int>& needed, std::span<const Shards> units,
                                         bool in_backward) {
  const auto is_settled = [&](int unit) {
    return units[unit] == Shards::resident && contains(needed_, unit);
  };
  if (std::all_of(needed.begin(), needed.end(), is_settled)) return {};

  auto& order = in_backward ? backward_ : forward_;
  for (int unit : needed) order.visit(unit);
  needed_ = needed;
  const auto most = std::max<size_t>(needed.size(), prefetch_ + 1);
  auto wanted = needed;
  for (int unit : order.upcoming())
    if (wanted.size() < most && !contains(wanted, unit)) wanted.push_back(unit);

  Moves moves;
  if (reshard_ == Reshard::after_use) {
    // Units used last stay where there is room: they may be needed again soon.
    auto kept = wanted;
    const auto seen = order.seen();
    for (auto unit = seen.rbegin(); unit != seen.rend(); ++unit)
      if (kept.size() < most && !contains(kept, *unit)) kept.push_back(*unit);
    for (size_t i = 0; i < units.size(); ++i)
      if (units[i] != Shards::away && !contains(kept, static_cast<int>(i)))
        moves.reshard.push_back(static_cast<int>(i));
  }
  for (int unit : wanted)
    if (units[unit] == Shards::away) moves.gather.push_back(unit);
  for (int unit : needed)
    if (units[unit] != Shards::resident) moves.wait.push_back(unit);
  return moves;
}

void ShardSchedule::add_reduction(int64_t slot, bool is_idle) {
  order_.push_back(reductions_.size());
  reductions_.push_back({.slot = slot, .is_idle = is_idle});
}

void ShardSchedule::begin_gradients() {
  for (auto& one : reductions_) one.is_complete = false, one.last_arrival = 0;
  next_ = 0;
  arrivals_ = 0;
}

void ShardSchedule::gradient_arrived(size_t reduction, bool is_complete) {
  auto& one = reductions_[reduction];
  one.is_complete = is_complete;
  one.last_arrival = ++arrivals_;
  one.gathers_then = gathers_;
}

std::vector<size_t> ShardSchedule::complete_reductions() {
  std::vector<size_t> now;
  for (; next_ < order_.size(); ++next_) {
    const auto& one = reductions_[order_[next_]];
    if (one.is_idle) continue;
    if (!one.is_complete || one.slot > gathers_) break;
    now.push_back(order_[next_]);
  }
  return now;
}

std::vector<size_t> ShardSchedule::reductions_before_gather() { return next_until(gathers_++); }

std::vector<size_t> ShardSchedule::remaining_reductions() {
  return next_until(std::numeric_limits<int64_t>::max());
}

std::vector<size_t> ShardSchedule::next_until(int64_t gathers) {
  std::vector<size_t> now;
  for (; next_ < order_.size() && reductions_[order_[next_]].slot <= gathers; ++next_)
    if (!reductions_[order_[next_]].is_idle) now.push_back(order_[next_]);
  return now;
}

std::vector<int64_t> ShardSchedule::seen_reductions() const {
  auto order = order_;
  const auto arrival = [&](size_t i) { return reductions_[i].last_arrival; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return arrival(a) > 0 && (arrival(b) == 0 || arrival(a) < arrival(b));
  });
  std::vector<int64_t> seen(order.begin(), order.end());
  for (auto i : order) seen.push_back(arrival(i) > 0 ? reductions_[i].gathers_then : gathers_);
  return seen;
}

void ShardSchedule::adopt(std::span<const int64_t> seen) {
  for (size_t i = 0; i < order_.size(); ++i) {
    order_[i] = static_cast<size_t>(seen[i]);
    reductions_[order_[i]].slot = seen[order_.size() + i];
  }
}

}  // namespace wanpar
