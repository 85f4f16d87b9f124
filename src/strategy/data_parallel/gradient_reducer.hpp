#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "module/buckets.hpp"

namespace torch::autograd {
struct Node;
}

namespace wanpar {

/// All-reduces (averages) the gradients of parameters, overlapping with the backward that computes them.
///
/// A post-hook on each parameter's AccumulateGrad counts down its bucket; a bucket is reduced as soon as it
/// and all before it are complete. The final callback of the engine reduces the remaining buckets and waits.
/// Besides its gradients a bucket carries two flags per parameter, "had a gradient here" and "had none here",
/// so that every rank learns of a parameter that had a gradient on some ranks only, and no rank waits for it.
///
/// A backward through a watched result overlaps reduction with computation. One that reaches the parameters
/// without passing a result (a loss stored by the module, a penalty on weights) reduces at its end.
class GradientReducer : public std::enable_shared_from_this<GradientReducer> {
 public:
  struct Options {
    int64_t bucket_bytes;
    bool find_unused;
  };

  /// Collective. Throws Error if the ranks' parameters differ, or if another reducer serves one of them.
  GradientReducer(Communicator group, NamedTensors parameters, Options options);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// Removes the hooks; a later backward through a watched result throws Error.
  void release();

  /// Whether these are the parameters, and the hooks are still on their gradient accumulators.
  bool serves(const NamedTensors& parameters) const;

  /// Watches a result for its backward. `in_parts`: the backward accumulates each gradient in several steps
  /// (micro-batches), so it is reduced only at the end.
  void watch(at::Tensor& result, bool in_parts);

  /// While paused, backward only records which parameters had a gradient.
  void pause(bool on);

  /// Starts a new forward: drops what a backward that threw has left behind.
  void begin_forward();

  /// The parameters without a gradient on some rank, in the last backward that reduced.
  const std::vector<std::string>& unused() const { return unused_; }

 private:
  struct BucketReduction {
    Bucket members;
    int64_t elements = 0;
    size_t awaited = 0;
    std::optional<Pending<at::Tensor>> mean;
  };
  struct Hook;

  void assign_buckets(const std::vector<size_t>& order);
  void begin_backward(bool in_parts);
  void reduce(int task, bool in_parts);
  void arrived(size_t index, bool is_defined);
  void forget();
  bool is_asked_for() const;
  void launch(BucketReduction& reduction);
  at::Tensor gradient(size_t index) const;
  void finish();
  void write(const BucketReduction& reduction, const at::Tensor& mean, const std::vector<bool>& had_one);
  void learn_order();

  Communicator group_;
  NamedTensors parameters_;
  Options options_;
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators_;
  std::vector<uintptr_t> hooks_;

  std::mutex mutex_;  // parameters on several devices come from several threads of the engine
  std::vector<BucketReduction> reductions_;
  std::vector<size_t> reduction_of_;  // of each parameter
  size_t next_ = 0;                   // the first reduction that has not been started
  int task_ = -1;                     // graph task id of the backward that reduces
  bool in_parts_ = false;             // whether it accumulates gradients in parts
  std::vector<bool> had_one_;         // a gradient since the last reduction
  std::vector<bool> arrived_;         // in this backward
  std::vector<int64_t> order_;        // of arrival
  bool order_is_learnt_ = false;
  bool is_paused_ = false, released_ = false;
  std::vector<std::string> unused_;
};

}  // namespace wanpar
