#pragma once
#include <wanpar/strategy/data_parallel.hpp>

#include <memory>
#include <string>
#include <vector>

#include "strategy/data_parallel/gradient_reducer.hpp"

namespace wanpar {

/// DataParallel on one rank.
class DataEngine {
 public:
  DataEngine(DataParallelOptions options, NamedTensors parameters, NamedTensors buffers);
  ~DataEngine();
  DataEngine(const DataEngine&) = delete;
  DataEngine& operator=(const DataEngine&) = delete;

  const DataParallelOptions& options() const { return options_; }
  const Communicator& group() const { return options_.group; }
  bool is_global_batch() const { return options_.mode == BatchMode::global; }
  /// Whether .gather names all results.
  bool states_all_results() const;
  const NamedTensors& buffers() const { return buffers_; }

  /// From now on, backward does not reduce gradients. Nests.
  void pause();
  void resume();

  /// Call before the module.
  void prepare();
  /// Call after the module. Throws Error if it has written to a parameter, which would then differ by rank.
  void check_parameters() const;

  /// Throws Error if the results depend on a leaf that is neither a parameter of the module nor an argument.
  void check_leaves(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments);

  /// Whether a backward of a forward that starts now may reduce gradients.
  bool reduces() const;
  /// Watches a result of the module for its backward, which brings each gradient at once, or in parts.
  void watch(at::Tensor& result, bool in_parts);
  std::vector<std::string> unused() const;

 private:
  void check_options() const;
  void leave_sharded(NamedTensors& trained);
  void share_buffers();

  DataParallelOptions options_;
  NamedTensors parameters_, buffers_;
  std::vector<int64_t> parameter_versions_;  // version counters before the call
  std::vector<int64_t> buffer_versions_;     // version counters when the buffers were last synchronised
  std::shared_ptr<GradientReducer> reducer_;
  bool averages_are_known_ = false;
  int pauses_ = 0;
};

}  // namespace wanpar
