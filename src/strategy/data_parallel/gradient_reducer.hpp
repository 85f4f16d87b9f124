#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "strategy/data_parallel/buckets.hpp"

namespace torch::autograd {
struct Node;
}

namespace wanpar {

/// Averages the gradients of parameters over the ranks, while the backward that makes them is under way.
///
/// A hook behind each parameter's gradient counts its bucket down; a bucket that is full, and all before it,
/// leaves at once. The engine's last callback sends what is left and waits. Behind its gradients a bucket
/// carries two marks for each parameter, "had one here" and "had none here", so that every rank learns of a
/// parameter without gradient, and no rank waits for it.
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

  /// What the backward through a result does with gradients.
  struct Watch {
    bool reduces;   ///< averages them, or only notes them
    bool in_parts;  ///< of a parameter they come in several parts; what is averaged is their sum
  };
  void watch(at::Tensor& result, Watch watch);

  /// Parameters without a gradient on some rank, in the last backward that reduced.
  const std::vector<std::string>& unused() const { return unused_; }

 private:
  struct Flight {
    Bucket members;
    int64_t elements = 0;
    size_t awaited = 0;
    std::optional<Pending<at::Tensor>> mean;
  };
  struct Hook;

  void cut(const std::vector<size_t>& order);
  void begin(Watch watch);
  void arrived(size_t index);
  void forget();
  bool is_asked_for() const;
  void launch(Flight& flight);
  at::Tensor gradient(size_t index) const;
  void finish();
  void write(const Flight& flight, const at::Tensor& mean, const std::vector<bool>& had_one);
  void learn_order();

  Communicator group_;
  NamedTensors parameters_;
  Options options_;
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators_;
  std::vector<uintptr_t> hooks_;

  std::mutex mutex_;  // parameters on several devices come from several threads of the engine
  std::vector<Flight> flights_;
  std::vector<size_t> flight_of_;  // of each parameter
  size_t next_ = 0;                // the first flight that has not left
  int task_ = -1;                  // the backward under way that reduces, as the engine numbers it
  bool in_parts_ = false;          // does it bring gradients in parts?
  std::vector<bool> had_one_;      // a gradient since the last reduction
  std::vector<bool> arrived_;      // in this backward
  std::vector<int64_t> order_;     // of arrival
  bool order_is_learnt_ = false;
  bool released_ = false;
  std::vector<std::string> unused_;
};

}  // namespace wanpar
