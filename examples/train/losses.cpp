#include "train/losses.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/new_file.hpp>

namespace wan::train {

LossFile::LossFile(const std::filesystem::path& file, std::vector<std::string> columns, int64_t last)
    : file_(file), columns_(std::move(columns)) {
  std::string text = "step";
  for (const auto& column : columns_) text += "," + column;
  text += "\n";
  std::ifstream before(file);
  std::string line;
  std::getline(before, line);
  while (std::getline(before, line)) {
    int64_t step = 0;
    double value = 0;
    char comma = 0;
    if (!(std::istringstream(line) >> step >> comma >> value) || step > last) continue;
    text += line + "\n";
    curve_.emplace_back(step, value);
  }
  before.close();
  wanpar::write_text(file, text);
  stream_.open(file, std::ios::app);
  check();
}

void LossFile::add(int64_t step, const std::vector<double>& values) {
  stream_ << step;
  for (const auto value : values) stream_ << fmt::format(",{:.17g}", value);
  stream_ << "\n" << std::flush;
  check();
  curve_.emplace_back(step, values.front());
}

void LossFile::check() const {
  if (!stream_) throw wanpar::Error(file_.string() + " cannot be written; is the disk full?");
}

void LossFile::plot(const std::filesystem::path& file) const {
  constexpr double kWidth = 640, kHeight = 360, kMargin = 48;
  constexpr size_t kMostPoints = 600;
  // Each point is the mean of equally many steps.
  const size_t each = std::max<size_t>(1, curve_.size() / kMostPoints);
  std::vector<std::pair<double, double>> points;
  for (size_t first = 0; first + each <= curve_.size(); first += each) {
    double sum = 0;
    for (size_t i = first; i < first + each; ++i) sum += curve_[i].second;
    points.emplace_back(static_cast<double>(curve_[first + each - 1].first),
                        std::log10(std::max(sum / static_cast<double>(each), 1e-12)));
  }
  if (points.empty()) return;
  const auto [lowest, highest] = std::minmax_element(
      points.begin(), points.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const double low = lowest->second, span = std::max(highest->second - low, 1e-3);
  const double last = points.back().first;
  std::string path;
  for (const auto& [step, value] : points)
    path += fmt::format("{:.1f},{:.1f} ", kMargin + step / last * (kWidth - 2 * kMargin),
                        kHeight - kMargin - (value - low) / span * (kHeight - 2 * kMargin));
  const auto label = [&](double x, double y, const std::string& text) {
    return fmt::format("<text x=\"{}\" y=\"{}\" font-family=\"sans-serif\" font-size=\"12\">{}</text>\n", x,
                       y, text);
  };
  wanpar::write_text(
      file,
      fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\">\n"
                  "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
                  kWidth, kHeight) +
          fmt::format("<polyline fill=\"none\" stroke=\"#1f5fa8\" stroke-width=\"1.5\" points=\"{}\"/>\n",
                      path) +
          label(4, kMargin, fmt::format("{:.3g}", std::pow(10, low + span))) +
          label(4, kHeight - kMargin, fmt::format("{:.3g}", std::pow(10, low))) +
          label(kWidth - 2 * kMargin, kHeight - 16, fmt::format("step {:.0f}", last)) +
          label(kWidth / 2 - kMargin, 20, columns_.front() + ", logarithmic") + "</svg>\n");
}

}  // namespace wan::train
