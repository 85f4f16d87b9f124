#pragma once
#include <wanpar/core/communicator.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "module/backward_pass.hpp"
#include "strategy/sharded_params/flat_parameters.hpp"

namespace torch::autograd {
struct Node;
}

namespace wanpar {

//  Averages the gradients of flat parameters over the ranks, while the backward that makes them is under way.
//
//     gathers     2 ─────────────▶ 1 ────────────▶ 0         the same order on every rank, whatever it uses:
//     reductions     4 ─▶   3 ─▶      2 ─▶            1, 0   3 leaves between the gathers of 2 and of 1
//
// A reduction leaves when its gradients are here and its place in that order has come, and at the latest when
// its place is over; what has no gradient here counts as zeros. The last exchange of a backward tells which
// flat parameters had a gradient anywhere, and whether some came after theirs had left: those go in a second
// round. The order is a guess in the first backward and rank 0's from then on. Nothing reaches the shards
// before the end, so that a backward which throws leaves no trace.
//
// Where several models are in one backward, what each has complete when is no order that ranks share. Their
// reductions leave where they gather and at the end, one model after the other. So it is in a first backward,
// too, which shows whether there are others.
class ShardedGradients : public std::enable_shared_from_this<ShardedGradients> {
 public:
  struct Expected {
    FlatParameters* flat;
    int64_t after;  ///< how many units a backward gathers before it
  };
  /// `order` is what to expect of a backward until the first one has shown it.
  ShardedGradients(Communicator group, std::vector<Communicator> alike, const std::vector<Expected>& order);
  ~ShardedGradients();
  ShardedGradients(const ShardedGradients&) = delete;
  ShardedGradients& operator=(const ShardedGradients&) = delete;

  /// The module's leaves that are trained now tell when their gradients are there.
  void listen();

  /// A unit is about to be gathered.
  void before_gather(int64_t unit);

  /// Forgets what was exchanged in passes that failed.
  void reset_after_failure() {
    exchanges_ = 0;
    is_alone_ = false;
  }

  void pause() { ++pauses_; }
  void resume() { --pauses_; }

 private:
  struct Reduction {
    FlatParameters* flat;
    int64_t after;                        // how many gathers of the backward it comes behind
    bool is_idle = false;                 // no rank had a gradient last time: not to be waited for
    std::vector<bool> is_heard = {};      // which leaves tell
    std::vector<bool> arrived = {};       // which leaves' gradients have come, or never will
    size_t last_arrival = 0;              // how many gradients of all had come with the last of these
    int64_t last_gather = 0;              // and how many gathers
    std::vector<at::Tensor> before = {};  // gradients that were there already, of each leaf
    bool has_left = false;
    std::vector<bool> had = {};  // of which shards a gradient has been here
    std::optional<Pending<at::Tensor>> mean = {};
    at::Tensor sum = {};  // of the means

    bool is_complete() const;
    bool waits() const;  // whether gradients are here that have not left
    void note();         // of which shards
  };
  class Arriving;
  class Arrived;
  class Companions;

  void begin_backward();
  void count_gathers();
  void forget();
  void reset();
  void arrived(size_t reduction, size_t leaf);
  void launch_until(int64_t gathers);
  void launch_complete();
  void launch(Reduction& reduction);
  void wait_until_in_flight(size_t max);
  void finish_all();
  void finish();
  void learn_order();

  Communicator group_;
  std::vector<Communicator> alike_;
  std::vector<Reduction> reductions_;
  std::vector<size_t> order_;
  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, uintptr_t>> hooks_;

  BackwardPass pass_, gathering_;
  std::weak_ptr<void> alive_;  // the backward at hand, whose callback holds it
  bool is_under_way_ = false;
  size_t next_ = 0;  // of the order
  std::deque<Reduction*> in_flight_;
  int64_t gathers_ = 0;    // in this backward
  int64_t exchanges_ = 0;  // a number for what this rank gathered and reduced, in order
  size_t arrivals_ = 0;    // in this backward
  int pauses_ = 0;
  bool order_is_learnt_ = false;
  const int64_t number_;      // in the order in which models were wrapped
  bool has_company_ = false;  // in this backward
  bool is_alone_ = false;     // on no rank there was any in the last one
};

}  // namespace wanpar
