#pragma once
#include <chrono>
#include <cstdint>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace wan::serve {

/// The state of a rank.
struct RankState {
  std::string host, device;
  int64_t memory_bytes = 0, memory_peak_bytes = 0;
  double step_seconds = 0;  ///< of its last step; 0 before the first
};

/// The state of the server. Thread-safe.
class Status {
 public:
  explicit Status(std::string model, std::string version)
      : model_(std::move(model)), version_(std::move(version)) {}

  /// starting, loading, ready, stopping, failed. A failed server stays failed, a stopping one may only fail.
  void become(const std::string& state, const std::string& reason = {});
  void loading(double part, const std::string& what);
  void lost(std::vector<int64_t> ranks);
  void hear(size_t rank, const RankState& state);

  std::string state() const;
  std::string reason() const;
  int percent() const;
  std::vector<int64_t> lost_ranks() const;
  std::vector<RankState> ranks() const;
  double uptime() const;
  const std::string& model() const { return model_; }
  const std::string& version() const { return version_; }
  nlohmann::json view() const;

 private:
  using Clock = std::chrono::steady_clock;

  const std::string model_, version_;
  const Clock::time_point began_ = Clock::now();
  mutable std::mutex mutex_;
  std::string state_ = "starting", reason_, what_;
  double part_ = 0;
  std::vector<int64_t> lost_;
  std::vector<RankState> ranks_;
  std::vector<Clock::time_point> heard_;
};

}  // namespace wan::serve
