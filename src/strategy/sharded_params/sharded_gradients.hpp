#pragma once
#include <wanpar/core/communicator.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "module/backward_pass.hpp"
#include "module/shard_schedule.hpp"
#include "strategy/sharded_params/flat_parameters.hpp"

namespace torch::autograd {
struct Node;
}

namespace wanpar {

//  Reduce-scatters (averages) the gradients of flat parameters, overlapping with the backward that computes
//  them.
//
//     gathers     2 ─────────────▶ 1 ────────────▶ 0         the same order on every rank, whatever it uses:
//     reductions     4 ─▶   3 ─▶      2 ─▶            1, 0   3 is issued between gathers 2 and 1
//
// Reduce-scatters are issued in one fixed order: when the gradients are ready and all predecessors are
// issued, at the latest when backward has passed the reduction's slot; a missing gradient counts as zeros. A
// final all-reduce tells which flat parameters had a gradient on any rank, and whether gradients became ready
// after their reduction was issued: those are reduced in a second round. The order is a guess in the first
// backward, and rank 0's from then on. Shards are updated only at the end, so a backward that throws leaves
// them unchanged.
//
// If several models take part in one backward, the order in which their gradients become ready may differ by
// rank. Then reductions are issued only at gathers and at the end, one model after the other. The first
// backward, which finds out whether there are others, does the same.
class ShardedGradients : public std::enable_shared_from_this<ShardedGradients> {
 public:
  struct Expected {
    FlatParameters* flat;
    int64_t after;  ///< its slot: the number of units that backward gathers before it
  };
  /// `order` is the expected order until the first backward has shown the actual one.
  ShardedGradients(Communicator group, std::vector<Communicator> alike,
                   std::shared_ptr<ShardSchedule> schedule, const std::vector<Expected>& order);
  ~ShardedGradients();
  ShardedGradients(const ShardedGradients&) = delete;
  ShardedGradients& operator=(const ShardedGradients&) = delete;

  /// Hooks the gradient accumulators of the leaves that require a gradient now.
  void listen();

  /// Call before a unit is gathered.
  void before_gather(int64_t unit);

  /// After a failure on some rank: forgets the communication of failed passes.
  void reset_after_failure() {
    exchanges_ = 0;
    is_alone_ = false;
  }

  void pause() { ++pauses_; }
  void resume() { --pauses_; }

 private:
  struct Reduction {
    FlatParameters* flat;
    std::vector<bool> is_heard = {};      // leaves with a hook
    std::vector<bool> arrived = {};       // leaves whose gradient is ready, or never will be
    std::vector<at::Tensor> before = {};  // accumulated gradients before this backward, by leaf
    bool has_left = false;
    std::vector<bool> had = {};  // shards that had a gradient on this rank
    std::optional<Pending<at::Tensor>> mean = {};
    at::Tensor sum = {};  // of the reduced means

    bool is_complete() const;
    bool waits() const;  // whether there are gradients that are not reduced yet
    void note();         // records which shards have gradients
  };
  class Arriving;
  class Arrived;
  class Companions;

  void begin_backward();
  void count_gathers();
  void forget();
  void reset();
  void arrived(size_t reduction, size_t leaf);
  void launch(const std::vector<size_t>& reductions);
  void launch(Reduction& reduction);
  void wait_until_in_flight(size_t max);
  void finish_all();
  void finish();
  void learn_order();

  Communicator group_;
  std::vector<Communicator> alike_;
  std::shared_ptr<ShardSchedule> schedule_;
  std::vector<Reduction> reductions_;  // by their numbers in the schedule
  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, uintptr_t>> hooks_;

  BackwardPass pass_, gathering_;
  std::weak_ptr<void> alive_;  // the current backward, whose callback holds it
  bool is_under_way_ = false;
  std::deque<Reduction*> in_flight_;
  int64_t exchanges_ = 0;  // hash of the sequence of this rank's gathers and reductions
  int pauses_ = 0;
  bool order_is_learnt_ = false;
  const int64_t number_;      // of this model, in the order of wrapping
  bool has_company_ = false;  // whether other models take part in this backward
  bool is_alone_ = false;     // no other model took part in the last one, on any rank
};

}  // namespace wanpar
