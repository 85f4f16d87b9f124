#include "limits.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

std::vector<std::string> beyond;

}  // namespace

void check(const std::string& row, double figure, double limit) {
  if (!(figure <= limit)) beyond.push_back(fmt::format("{}: {:.6g}, at most {:.6g}", row, figure, limit));
}

bool are_kept() {
  for (auto& row : beyond) fmt::print(stderr, "beyond its limit: {}\n", row);
  return beyond.empty();
}

double worse(double a, double b) { return std::isnan(a) || b <= a ? a : b; }
