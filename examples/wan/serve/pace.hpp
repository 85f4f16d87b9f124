#pragma once
#include <nlohmann/json.hpp>
#include <optional>

namespace wan::serve {

/// Estimates the duration of jobs from earlier ones.
class Pace {
 public:
  /// Records a job with these settings: the time per step, and the time outside of steps.
  void learn(const nlohmann::json& settings, double seconds_of_step, double other_seconds);

  std::optional<double> seconds_of(const nlohmann::json& settings) const;
  std::optional<double> other_seconds_of(const nlohmann::json& settings) const;

 private:
  std::optional<double> step_, other_;  // seconds for a million pixels
};

}  // namespace wan::serve
