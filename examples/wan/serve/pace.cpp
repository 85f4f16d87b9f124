#include "wan/serve/pace.hpp"

#include <string>

namespace wan::serve {
namespace {

/// Millions of pixels of the video, as often as a step computes them.
double pixels(const nlohmann::json& settings) {
  const auto size = settings.at("size").get<std::string>();  // 832x480
  return std::stod(size) * std::stod(size.substr(size.find('x') + 1)) *
         settings.at("num_frames").get<double>() / 1e6;
}

double branches(const nlohmann::json& settings) {
  return settings.at("guidance_scale").get<double>() > 1 ? 2 : 1;
}

void blend(std::optional<double>& known, double seen) {
  constexpr double kWeight = 0.4;
  known = known ? *known + kWeight * (seen - *known) : seen;
}

}  // namespace

void Pace::learn(const nlohmann::json& settings, double seconds_of_step, double other_seconds) {
  blend(step_, seconds_of_step / pixels(settings) / branches(settings));
  blend(other_, other_seconds / pixels(settings));
}

std::optional<double> Pace::seconds_of(const nlohmann::json& settings) const {
  if (!step_) return std::nullopt;
  return *step_ * pixels(settings) * branches(settings) * settings.at("num_inference_steps").get<double>() +
         *other_seconds_of(settings);
}

std::optional<double> Pace::other_seconds_of(const nlohmann::json& settings) const {
  return other_ ? std::optional(*other_ * pixels(settings)) : std::nullopt;
}

}  // namespace wan::serve
