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

/// Averages the gradients of parameters over the ranks, while the backward that makes them is under way.
///
/// A hook behind each parameter's gradient counts its bucket down; a bucket that is full, and all before it,
/// leaves at once. The engine's last callback sends what is left and waits. Behind its gradients a bucket
/// carries two marks for each parameter, "had one here" and "had none here", so that every rank learns of a
/// parameter that had a gradient on some ranks only, and no rank waits for it.
///
/// A backward that comes by a watched result reduces while it is under way. One that comes to the parameters
/// past all results (a loss that the module keeps, a penalty on weights) reduces at its end.
class GradientReducer : public std::enable_shared_from_this<GradientReducer> {
 public:
  struct Options {
    int64_t bucket_bytes;
    bool find_unused;
  };

  /// Collective. Throws Error when the ranks' parameters differ, or when another reducer serves one of them.
  GradientReducer(Communicator group, NamedTensors parameters, Options options);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// Takes the hooks away; a backward still to come through a watched result is an Error.
  void release();

  /// Are these the parameters, and the hooks still behind their gradients?
  bool serves(const NamedTensors& parameters) const;

  /// A result, through which a backward will come. `in_parts`: of a parameter it brings the gradient in
  /// several parts, and what is averaged is their sum.
  void watch(at::Tensor& result, bool in_parts);

  /// Backwards only note gradients, or average them, too.
  void pause(bool on);

  /// A new forward: what a backward that threw has left is forgotten.
  void begin_forward();

  /// Parameters without a gradient on some rank, in the last backward that reduced.
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
  size_t next_ = 0;                   // the first reduction that has not left
  int task_ = -1;                     // the backward under way that reduces, as the engine numbers it
  bool in_parts_ = false;             // does it bring gradients in parts?
  std::vector<bool> had_one_;         // a gradient since the last reduction
  std::vector<bool> arrived_;         // in this backward
  std::vector<int64_t> order_;        // of arrival
  bool order_is_learnt_ = false;
  bool is_paused_ = false, released_ = false;
  std::vector<std::string> unused_;
};

}  // namespace wanpar
