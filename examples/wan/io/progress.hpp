#pragma once
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>

namespace wan {

/// How progress is shown: a bar that is redrawn in place, or plain lines, one per tenth at most.
enum class ProgressStyle { bar, lines };

/// A bar where `descriptor` (as STDERR_FILENO) is a terminal, lines elsewhere.
ProgressStyle style_of(int descriptor);

/// Hears how far a job is, phase by phase. Only rank 0 has one.
class Progress {
 public:
  virtual ~Progress() = default;
  virtual void start(std::string phase, int64_t steps) = 0;
  virtual void update(int64_t done) = 0;  ///< steps of this phase that are done; the phase ends with the last
};

/// Tells a person: steps done, seconds a step, time left.
class ShownProgress : public Progress {
 public:
  using Clock = std::function<double()>;  ///< seconds since any fixed moment

  ShownProgress(std::ostream& out, ProgressStyle style, Clock clock = steady_seconds);

  void start(std::string phase, int64_t steps) override;
  void update(int64_t done) override;

  static double steady_seconds();

 private:
  void draw_bar(int64_t done, double seconds);
  void print_line(int64_t done, double seconds);

  std::ostream& out_;
  ProgressStyle style_;
  Clock clock_;
  std::string phase_;
  int64_t steps_ = 0;
  int64_t tenths_shown_ = 0;
  size_t width_ = 0;
  double started_ = 0;
};

}  // namespace wan
