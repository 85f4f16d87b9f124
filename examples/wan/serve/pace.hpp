#pragma once
#include <nlohmann/json.hpp>
#include <optional>

namespace wan::serve {

/// How long jobs take, learnt from those before them.
class Pace {
 public:
  /// Of a job with these settings: what it took, a step and all that is no step.
  void learn(const nlohmann::json& settings, double seconds_of_step, double other_seconds);

  std::optional<double> seconds_of(const nlohmann::json& settings) const;
  std::optional<double> other_seconds_of(const nlohmann::json& settings) const;

 private:
  std::optional<double> step_, other_;  // seconds for a million pixels
};

}  // namespace wan::serve
