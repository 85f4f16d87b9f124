#include "wan/io/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace wan {
namespace {

constexpr int64_t kBarWidth = 12;

std::string minutes(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  const auto hours = whole / 3600, rest = whole % 3600;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, rest / 60, rest % 60)
                   : fmt::format("{:02}:{:02}", rest / 60, rest % 60);
}

std::string pace(int64_t done, int64_t steps, double seconds) {
  const auto each = seconds / static_cast<double>(done);
  return fmt::format("{:.2f} s/it, {} left", each, minutes(each * static_cast<double>(steps - done)));
}

}  // namespace

ProgressStyle style_of(int descriptor) {
  return ::isatty(descriptor) != 0 ? ProgressStyle::bar : ProgressStyle::lines;
}

double ShownProgress::steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

ShownProgress::ShownProgress(std::ostream& out, ProgressStyle style, Clock clock)
    : out_(out), style_(style), clock_(std::move(clock)) {}

void ShownProgress::start(std::string phase, int64_t steps) {
  phase_ = std::move(phase);
  steps_ = steps;
  tenths_shown_ = 0;
  width_ = 0;
  started_ = clock_();
  if (style_ == ProgressStyle::bar) draw_bar(0, 0);
}

void ShownProgress::update(int64_t done) {
  const auto seconds = clock_() - started_;
  style_ == ProgressStyle::bar ? draw_bar(done, seconds) : print_line(done, seconds);
}

void ShownProgress::draw_bar(int64_t done, double seconds) {
  const auto filled = kBarWidth * done / steps_;
  auto line = fmt::format("{:<20} {:>3}% |{:-<{}}| {}/{}", phase_, 100 * done / steps_,
                          std::string(filled, '#'), kBarWidth, done, steps_);
  if (done == steps_)
    line += fmt::format("  {}, {:.2f} s/it", minutes(seconds), seconds / static_cast<double>(steps_));
  else if (done > 0)
    line += "  " + pace(done, steps_, seconds);
  out_ << '\r' << fmt::format("{:<{}}", line, width_) << (done == steps_ ? "\n" : "") << std::flush;
  width_ = line.size();  // a shorter line must cover the longer one before it
}

void ShownProgress::print_line(int64_t done, double seconds) {
  const auto tenths = 10 * done / steps_;
  if (tenths == tenths_shown_) return;
  tenths_shown_ = tenths;
  const auto time = done == steps_ ? minutes(seconds) : pace(done, steps_, seconds);
  out_ << fmt::format("{} {}/{} ({} %), {}\n", phase_, done, steps_, 100 * done / steps_, time) << std::flush;
}

}  // namespace wan
