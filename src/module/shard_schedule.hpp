#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "module/visit_order.hpp"

namespace wanpar {

/// When a unit is resharded: after each use, unless it is needed next; after backward; when the next forward
/// starts.
enum class Reshard { after_use, after_backward, at_next_forward };

/// Where the parameters of a unit are.
enum class Shards { away, coming, resident };

//  ShardSchedule: the order in which units are gathered and resharded, and their gradients reduced.
//
//     event       forward needs b         backward needs b        the gradients of c are complete
//     answer      reshard a, gather c,    reduce d, gather a,     reduce c, if its slot has come
//                 wait for b              wait for b
//
//  It decides and does nothing: it answers the events of a pass by what to do now. Ranks with the same events
//  decide alike. The order of gathers is learnt in one pass and expected in the next. The order of reductions
//  is a guess in the first backward; from then on it is what one rank has seen, adopted by all.
class ShardSchedule {
 public:
  /// At most `prefetch` + 1 units are resident or on their way, more where one operator needs more.
  ShardSchedule(int64_t prefetch, Reshard reshard) : prefetch_(prefetch), reshard_(reshard) {}

  // Gathers.

  void begin_forward();
  /// Without a backward to go by, it is expected to need the units of the forward in reverse.
  void begin_backward();
  /// The pass is over.
  void end_pass() { needed_.clear(); }
  /// Whether nothing stays behind a pass that no backward follows, and behind a backward.
  bool reshards_after_pass() const { return reshard_ != Reshard::at_next_forward; }
  /// A pass has failed: forgets the orders learnt.
  void forget_orders();

  /// In this order.
  struct Moves {
    std::vector<int> reshard, gather, wait;
  };
  /// An operator needs these units; `units` says where each of all is.
  Moves need(const std::vector<int>& needed, std::span<const Shards> units, bool in_backward);

  // Reductions of gradients, by number. The slot of a reduction is the number of gathers of a backward before
  // it; within a slot they go in order.

  /// Idle reductions are skipped.
  void add_reduction(int64_t slot, bool is_idle);
  void set_idle(size_t reduction, bool is_idle) { reductions_[reduction].is_idle = is_idle; }

  /// A backward begins to gather, and to make gradients.
  void begin_gathers() { gathers_ = 0; }
  void begin_gradients();
  /// A gradient of this reduction is ready; is_complete: it was the last one.
  void gradient_arrived(size_t reduction, bool is_complete);
  /// The next reductions that are complete and whose slot has come.
  std::vector<size_t> complete_reductions();
  /// A gather begins. The reductions whose slot ends with it; they are issued before it, complete or not.
  std::vector<size_t> reductions_before_gather();
  /// All others, at the end of a backward.
  std::vector<size_t> remaining_reductions();

  /// What this backward has shown: the order in which reductions became complete, those without gradients
  /// last, followed by the slot of each.
  std::vector<int64_t> seen_reductions() const;
  /// Goes by it from now on.
  void adopt(std::span<const int64_t> seen);

 private:
  struct Reduction {
    int64_t slot;
    bool is_idle;
    bool is_complete = false;
    size_t last_arrival = 0;   // the number of gradients that were ready with its last one
    int64_t gathers_then = 0;  // and the number of gathers
  };
  std::vector<size_t> next_until(int64_t gathers);

  int64_t prefetch_;
  Reshard reshard_;
  VisitOrder forward_, backward_;
  std::vector<int> needed_;  // by the latest operator

  std::vector<Reduction> reductions_;
  std::vector<size_t> order_;
  size_t next_ = 0;  // of the order
  int64_t gathers_ = 0;
  size_t arrivals_ = 0;
};

}  // namespace wanpar
