#pragma once
#include <wanpar/strategy/sharded_params.hpp>

#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "module/residency.hpp"
#include "strategy/sharded_params/parameter_ownership.hpp"
#include "strategy/sharded_params/sharded_gradients.hpp"
#include "strategy/sharded_params/sharded_unit.hpp"

namespace wanpar {

/// ShardedParams on one rank: holds the shards, unshards units by Residency, and reduces gradients.
class ShardedEngine {
 public:
  ShardedEngine(ShardedParamsOptions options, const NamedTensors& parameters, const NamedTensors& buffers);

  const ShardedParamsOptions& options() const { return options_; }
  Residency& residency() { return *residency_; }
  ShardedGradients& gradients() { return *gradients_; }

  /// Whether this rank has all parameters, in the dtype of computation.
  bool is_unsharded() const { return is_unsharded_; }
  /// Whether, in addition, there is no other rank: the forward needs no hooks.
  bool is_alone() const;
  /// Throws Error if parameters have no values yet.
  void check_values() const;
  void begin_forward();
  /// Call after a forward. Throws Error if it has written to a replicated parameter.
  void check_parameters() const;
  void check_leaves(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments) const;
  void check_backward() const;
  /// The placement of all parameters.
  const std::shared_ptr<Placement>& placement() const { return placement_; }
  /// Notes that deferred parameters have been loaded.
  void has_values() { without_values_.clear(); }

  std::vector<std::shared_ptr<ShardedUnit>>& units() { return units_; }
  template <class Action>
  void each_flat(const Action& action) const {
    for (auto& unit : units_)
      for (auto& flat : unit->flats) action(flat);
  }

 private:
  /// Ranks keep residency and prefetch orders in lockstep; after a failure on any rank, all reset them.
  void reset_after_failures();
  void check(const NamedTensors& parameters, const NamedTensors& buffers) const;
  void find_deferred(const NamedTensors& parameters);
  void compare_values() const;
  void make_units(const NamedTensors& parameters);
  void settle(at::Tensor buffer) const;
  void make_gradients();

  ParameterOwnership ownership_;
  ShardedParamsOptions options_;
  std::shared_ptr<Placement> placement_;
  std::vector<Communicator> alike_;  // replicas: ranks that hold the same shards
  std::shared_ptr<ShardSchedule> schedule_;
  std::shared_ptr<Residency> residency_;
  std::vector<std::shared_ptr<ShardedUnit>> units_;
  std::unordered_set<at::TensorImpl*> leaves_;
  bool is_unsharded_ = false, are_compared_ = false;
  NamedTensors whole_;            // the parameters, if unsharded
  std::vector<int64_t> written_;  // version counters before the call
  uint64_t disturbances_ = 0;     // disturbances() of the groups at the last forward
  std::string without_values_;    // a deferred parameter that has not been loaded

  std::shared_ptr<ShardedGradients> gradients_;
};

}  // namespace wanpar
