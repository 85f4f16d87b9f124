#include "strategy/sequence_parallel/extent.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace wanpar {
namespace {

bool all_equal(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(), [&](double x) { return x == values[0]; });
}

/// values − times · lengths, where that is the same on every rank.
std::optional<double> rest(std::span<const double> values, const std::vector<double>& lengths, double times) {
  std::vector<double> rests;
  for (size_t r = 0; r < values.size(); ++r) rests.push_back(values[r] - times * lengths[r]);
  if (!all_equal(rests)) return {};
  return rests[0];
}

/// The whole number of times that the length is in each of them.
std::optional<double> times_of(std::span<const double> values, const std::vector<double>& lengths) {
  std::optional<double> times;
  for (size_t r = 0; r < values.size(); ++r) {
    if (lengths[r] == 0 && values[r] == 0) continue;
    if (lengths[r] == 0 || (times && *times * lengths[r] != values[r])) return {};
    times = values[r] / lengths[r];
    if (*times != std::floor(*times) || *times == 0) return {};
  }
  return times;
}

}  // namespace

double Extent::of(std::span<const double> lengths) const {
  double value = more;
  for (auto& term : terms) value += term.times * lengths[term.split];
  return divisor == 1 ? value : std::floor(value / divisor);
}

std::optional<Extent> extent_of(std::span<const double> values,
                                const std::vector<std::vector<double>>& lengths) {
  const std::vector<double> mine(values.begin(), values.end());
  bool is_nan = std::all_of(mine.begin(), mine.end(), [](double x) { return std::isnan(x); });
  if (all_equal(mine) || is_nan) return Extent{{}, mine[0]};
  const auto splits = static_cast<int>(lengths.size());
  std::vector<int> telling;  // splits whose lengths differ by rank
  for (int s = 0; s < splits; ++s)
    if (!all_equal(lengths[s])) telling.push_back(s);

  for (int s : telling)
    if (auto times = times_of(values, lengths[s])) return Extent{{{s, *times}}, 0};
  for (double times : {1.0, -1.0, 2.0, -2.0})
    for (int s : telling)
      if (auto more = rest(values, lengths[s], times)) {
        const Extent found{{{s, times}}, *more};
        // What is left over on each rank (of a window, of a multiple) is left of nothing in the whole.
        const double whole = times * std::accumulate(lengths[s].begin(), lengths[s].end(), 0.0) + *more;
        bool keeps_sign =
            std::all_of(mine.begin(), mine.end(), [&](double x) { return x < 0 || whole >= 0; });
        if (keeps_sign) return found;
      }
  // Halves, windows: said of shares of which one at least holds several.
  for (int s : telling)
    for (double divisor : {2.0, 3.0, 4.0, 8.0, 16.0})
      for (double more : {0.0, 1.0, -1.0, divisor - 1}) {
        const Extent found{{{s, 1.0}}, more, divisor};
        bool fits = *std::max_element(lengths[s].begin(), lengths[s].end()) >= 2 * divisor;
        for (size_t r = 0; r < mine.size() && fits; ++r)
          fits = mine[r] == std::floor((lengths[s][r] + more) / divisor);
        if (fits) return found;
      }
  for (size_t i = 0; i < telling.size(); ++i)
    for (size_t j = 0; j < telling.size(); ++j) {
      if (i == j) continue;
      std::vector<double> without;
      for (size_t r = 0; r < values.size(); ++r) without.push_back(values[r] - lengths[telling[i]][r]);
      for (double times : {1.0, -1.0})
        if (j > i || times < 0)
          if (auto more = rest(without, lengths[telling[j]], times); more && *more == 0)
            return Extent{{{telling[i], 1.0}, {telling[j], times}}, 0};
    }
  return {};
}

}  // namespace wanpar
