#include "wan/io/progress.hpp"

#include <doctest/doctest.h>

#include <sstream>

using wan::ProgressStyle;
using wan::ShownProgress;

namespace progress_test {
namespace {

/// What a job of `steps` steps of `seconds` each shows.
std::string shown(ProgressStyle style, int64_t steps, double seconds) {
  std::ostringstream out;
  double now = 100;
  ShownProgress progress(out, style, [&] { return now; });
  progress.start("denoise", steps);
  for (int64_t step = 1; step <= steps; ++step) {
    now += seconds;
    progress.update(step);
  }
  return out.str();
}

int64_t count(const std::string& text, char wanted) { return std::count(text.begin(), text.end(), wanted); }

}  // namespace

TEST_CASE("progress without a terminal is at most ten plain lines, the last for the end") {
  const auto text = shown(ProgressStyle::lines, 50, 1.5);
  CHECK(count(text, '\n') == 10);
  CHECK(count(text, '\r') == 0);
  CHECK(text.starts_with("denoise 5/50 (10 %), 1.50 s/it, 01:08 left\n"));
  CHECK(text.ends_with("denoise 50/50 (100 %), 01:15\n"));
}

TEST_CASE("progress of few steps is one line each") {
  CHECK(count(shown(ProgressStyle::lines, 3, 1), '\n') == 3);
  CHECK(shown(ProgressStyle::lines, 1, 4000) == "denoise 1/1 (100 %), 1:06:40\n");
}

TEST_CASE("progress on a terminal redraws one line, then ends it") {
  const auto text = shown(ProgressStyle::bar, 4, 2);
  CHECK(count(text, '\n') == 1);
  CHECK(count(text, '\r') == 5);
  CHECK(text.find("denoise               50% |######------| 2/4  2.00 s/it, 00:04 left") !=
        std::string::npos);
  CHECK(text.ends_with("100% |############| 4/4  00:08, 2.00 s/it     \n"));
}

TEST_CASE("progress on a terminal is shorter than 80 columns, whatever it counts") {
  std::istringstream lines(shown(ProgressStyle::bar, 1000, 3599));
  for (std::string line; std::getline(lines, line, '\r');) CHECK(line.size() < 80);
}

TEST_CASE("a phase starts anew, with its own time") {
  std::ostringstream out;
  double now = 0;
  ShownProgress progress(out, ProgressStyle::lines, [&] { return now; });
  progress.start("load", 1);
  now = 60;
  progress.update(1);
  progress.start("decode", 2);
  now = 61;
  progress.update(1);
  CHECK(out.str() == "load 1/1 (100 %), 01:00\ndecode 1/2 (50 %), 1.00 s/it, 00:01 left\n");
}

}  // namespace progress_test
