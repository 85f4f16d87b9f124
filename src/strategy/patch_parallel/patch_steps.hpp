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

/// The tensors that the ranks have sent, by rank, including this one; undefined for ranks whose data is not
/// needed.
using FromRanks = std::vector<at::Tensor>;

/// The data of one exchange in the module, stored from one step to the next.
class StaleBuffer {
 public:
  StaleBuffer(std::string what, std::vector<int64_t> shape)
      : what_(std::move(what)), shape_(std::move(shape)) {}

  const std::string& what() const { return what_; }
  const std::vector<int64_t>& shape() const { return shape_; }

  /// Takes the data of the previous step, waiting for it if needed; nullopt if there is none.
  std::optional<FromRanks> take();
  /// Stores the data of this step, complete or in flight.
  void keep(int64_t step, FromRanks here);
  void keep(int64_t step, std::function<FromRanks()> coming, int64_t bytes);
  /// Records the relative change of this rank's own data since the previous step.
  void note_change(const at::Tensor& own, const at::Tensor& before);

  int64_t step() const { return step_; }
  std::optional<double> staleness() const;
  int64_t bytes() const { return bytes_; }

 private:
  std::string what_;
  std::vector<int64_t> shape_;
  std::optional<FromRanks> here_;
  std::function<FromRanks()> coming_;
  at::Tensor staleness_;  // read lazily: on a GPU that synchronises
  int64_t step_ = 0, bytes_ = 0;
};

/// The denoising steps on one rank: which are synchronous, and the buffers from one step to the next.
class PatchSteps {
 public:
  explicit PatchSteps(const PatchParallelOptions& options)
      : schedule_(options), max_staleness_(options.max_staleness) {}

  /// Throws Error for a step out of order.
  void update(int64_t step);
  /// Waits for transfers in flight, and drops all buffers.
  void forget();

  /// Collective. Starts a call of the module. Throws Error on all ranks if they are in different steps, or if
  /// this step cannot be displaced.
  void begin_call(const SplitRanks& ranks, const std::string& kind);
  void end_call();

  /// During a call: whether exchanges are stored for the next step, and whether the previous step's are used.
  /// False outside a call, as in backward.
  bool keeps() const { return is_running_ && schedule_.mode() != PatchMode::exact; }
  bool is_displaced() const { return is_running_ && schedule_.mode() == PatchMode::displaced; }
  int64_t step() const { return *schedule_.step(); }
  /// The buffer of the next exchange of this call. Throws Error if it differs from that in the previous step.
  StaleBuffer& next_buffer(const std::string& what, at::IntArrayRef shape);
  void count_sent(int64_t bytes) { bytes_sent_ += bytes; }

  PatchStatus status() const;

 private:
  struct Call {
    std::string kind;  // signature of its arguments
    std::vector<StaleBuffer> buffers;
  };
  void vote(const SplitRanks& ranks);
  void check_known(const std::string& kind) const;

  PatchSchedule schedule_;
  std::optional<double> max_staleness_;
  std::vector<Call> calls_;
  size_t call_ = 0, next_buffer_ = 0;  // indices of the next call and exchange
  bool is_running_ = false;
  int64_t bytes_sent_ = 0;
};

}  // namespace wanpar
