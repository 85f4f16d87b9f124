#pragma once
#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "wan_top/reading.hpp"

namespace wan_top {

/// Statistics of processors and processes, from /proc and /sys. Utilisation is since the previous call; in
/// the first call, since the start.
class Proc {
 public:
  explicit Proc(std::filesystem::path root = "/") : root_(std::move(root)) {}

  /// The processors of this host, as one device.
  Device host();
  /// The processes of this user that a launcher has started as ranks, sorted by run and rank.
  std::vector<Rank> ranks();

 private:
  struct Ticks {
    double busy = 0, all = 0;
  };
  std::string text(const std::filesystem::path& file) const;
  std::optional<double> number(const std::filesystem::path& file) const;
  std::optional<double> highest(const std::string& folder, const std::string& prefix,
                                const std::string& file) const;
  std::optional<double> power();
  std::optional<Rank> rank_of(int process);

  std::filesystem::path root_;
  Ticks host_ticks_;
  double throttles_ = -1;
  std::optional<double> energy_;
  std::chrono::steady_clock::time_point energy_at_;
  std::map<int, std::pair<double, double>> ticks_of_processes_;  // and the uptime then
};

}  // namespace wan_top
