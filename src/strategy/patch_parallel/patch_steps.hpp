#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/module/forward_scope.hpp>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "strategy/patch_parallel/patch_schedule.hpp"
#include "strategy/split/split_ranks.hpp"

namespace wanpar {

/// What the ranks have sent, by rank: of this one, what it has sent itself; empty where one has sent nothing
/// that is of use here.
using FromRanks = std::vector<at::Tensor>;

/// One place of a module where ranks exchange something of each step, and keep it for the next.
class StaleBuffer {
 public:
  StaleBuffer(std::string what, std::vector<int64_t> shape)
      : what_(std::move(what)), shape_(std::move(shape)) {}

  const std::string& what() const { return what_; }
  const std::vector<int64_t>& shape() const { return shape_; }

  /// What the last step has left here; none before there was one.
  std::optional<FromRanks> take();
  /// This step leaves what is here, or on its way.
  void keep(int64_t step, FromRanks here);
  void keep(int64_t step, std::function<FromRanks()> coming, int64_t bytes);
  /// How far this rank's own is from what it was in the last step, of its norm.
  void note_change(const at::Tensor& own, const at::Tensor& before);

  int64_t step() const { return step_; }
  std::optional<double> staleness() const;
  int64_t bytes() const { return bytes_; }

 private:
  std::string what_;
  std::vector<int64_t> shape_;
  std::optional<FromRanks> here_;
  std::function<FromRanks()> coming_;
  at::Tensor staleness_;  // not read before somebody asks: on a GPU that waits
  int64_t step_ = 0, bytes_ = 0;
};

/// The steps of a sampler on one rank: which are synchronous, and what each leaves for the next.
class PatchSteps {
 public:
  explicit PatchSteps(const PatchParallelOptions& options)
      : schedule_(options), max_staleness_(options.max_staleness) {}

  /// Throws Error for a step out of order.
  void update(int64_t step);
  /// Waits for what is in flight.
  void forget();

  /// Collective. A call of the module begins. Throws Error, alike on all ranks, where they are in other
  /// steps, or where this one cannot be displaced.
  void begin_call(const SplitRanks& ranks, const std::string& kind);
  void end_call();

  /// While it runs: whether what is exchanged is kept for the next step, and whether that of the last one is
  /// taken. Exact outside of a call, as in a backward.
  bool keeps() const { return is_running_ && schedule_.mode() != PatchMode::exact; }
  bool is_displaced() const { return is_running_ && schedule_.mode() == PatchMode::displaced; }
  int64_t step() const { return *schedule_.step(); }
  /// The next place of this call. Throws Error where it is another one than in the step before.
  StaleBuffer& next_buffer(const std::string& what, at::IntArrayRef shape);
  void count_sent(int64_t bytes) { bytes_sent_ += bytes; }

  PatchStatus status() const;

 private:
  struct Call {
    std::string kind;  // of its arguments
    std::vector<StaleBuffer> buffers;
  };
  void vote(const SplitRanks& ranks);
  void check_known(const std::string& kind) const;

  PatchSchedule schedule_;
  std::optional<double> max_staleness_;
  std::vector<Call> calls_;
  size_t call_ = 0, next_buffer_ = 0;  // those that come next
  bool is_running_ = false;
  int64_t bytes_sent_ = 0;
};

}  // namespace wanpar
