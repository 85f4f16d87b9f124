#include "wan/serve/status.hpp"

#include <algorithm>
#include <cmath>

namespace wan::serve {

void Status::become(const std::string& state, const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (state_ == "failed" || (state_ == "stopping" && state != "failed")) return;
  state_ = state;
  reason_ = reason;
}

void Status::loading(double part, const std::string& what) {
  std::lock_guard lock(mutex_);
  part_ = part;
  what_ = what;
}

void Status::lost(std::vector<int64_t> ranks) {
  std::lock_guard lock(mutex_);
  lost_ = std::move(ranks);
}

void Status::hear(size_t rank, const RankState& state) {
  std::lock_guard lock(mutex_);
  if (ranks_.size() <= rank) ranks_.resize(rank + 1), heard_.resize(rank + 1, began_);
  ranks_[rank] = state;
  heard_[rank] = Clock::now();
}

std::string Status::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

std::string Status::reason() const {
  std::lock_guard lock(mutex_);
  return reason_;
}

int Status::percent() const {
  std::lock_guard lock(mutex_);
  return state_ == "ready" ? 100 : std::min(99, static_cast<int>(part_ * 100));
}

std::vector<int64_t> Status::lost_ranks() const {
  std::lock_guard lock(mutex_);
  return lost_;
}

std::vector<RankState> Status::ranks() const {
  std::lock_guard lock(mutex_);
  return ranks_;
}

double Status::uptime() const { return std::chrono::duration<double>(Clock::now() - began_).count(); }

nlohmann::json Status::view() const {
  const auto percent = this->percent();
  std::lock_guard lock(mutex_);
  auto ranks = nlohmann::json::array();
  for (size_t i = 0; i < ranks_.size(); ++i) {
    const auto& rank = ranks_[i];
    const auto silent = std::chrono::duration<double>(Clock::now() - heard_[i]).count();
    ranks.push_back(
        {{"rank", i},
         {"host", rank.host},
         {"device", rank.device},
         {"memory_bytes", rank.memory_bytes},
         {"memory_peak_bytes", rank.memory_peak_bytes},
         {"step_seconds", rank.step_seconds > 0 ? nlohmann::json(rank.step_seconds) : nlohmann::json()},
         {"seconds_since_heard", std::round(silent * 10) / 10}});
  }
  return {{"state", state_},
          {"loading", {{"percent", percent}, {"what", what_}}},
          {"reason", reason_.empty() ? nlohmann::json() : nlohmann::json(reason_)},
          {"model", model_},
          {"version", version_},
          {"uptime_s", std::floor(uptime())},
          {"ranks", ranks}};
}

}  // namespace wan::serve
