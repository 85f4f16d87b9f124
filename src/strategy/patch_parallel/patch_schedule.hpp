#pragma once
#include <wanpar/strategy/patch_parallel.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace wanpar {

enum class PatchMode {
  exact,        ///< without update_step: nothing is stored
  warm_up,      ///< synchronous, at the beginning
  synchronous,  ///< exact, and stored for the next step
  displaced,    ///< uses the other ranks' stale activations
};
std::string text_of(PatchMode mode);

/// Decides which denoising steps are synchronous.
class PatchSchedule {
 public:
  /// Throws Error for options that contradict one another.
  explicit PatchSchedule(const PatchParallelOptions& options);

  /// Throws Error for a step out of order.
  void begin_step(int64_t step);
  void forget() { step_.reset(), first_.reset(), mode_ = PatchMode::exact; }
  void make_synchronous() { mode_ = PatchMode::synchronous; }

  const std::optional<int64_t>& step() const { return step_; }
  PatchMode mode() const { return mode_; }
  /// Whether there was no previous step.
  bool is_first() const { return step_ == first_; }

 private:
  PatchMode mode_of(int64_t steps_before) const;

  int64_t warmup_, frequency_;
  bool sync_first_;
  std::optional<int64_t> step_, first_;
  PatchMode mode_ = PatchMode::exact;
};

}  // namespace wanpar
