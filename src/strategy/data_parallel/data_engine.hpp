#pragma once
#include <wanpar/strategy/data_parallel.hpp>

#include <memory>
#include <string>
#include <vector>

#include "strategy/data_parallel/gradient_reducer.hpp"

namespace wanpar {

/// One rank's side of the strategy.
class DataEngine {
 public:
  DataEngine(DataParallelOptions options, NamedTensors parameters, NamedTensors buffers);
  ~DataEngine();
  DataEngine(const DataEngine&) = delete;
  DataEngine& operator=(const DataEngine&) = delete;

  const DataParallelOptions& options() const { return options_; }
  const Communicator& group() const { return options_.group; }
  bool is_global_batch() const { return options_.mode == BatchMode::global; }
  /// Whether .gather names every result there may be.
  bool states_all_results() const;
  const NamedTensors& buffers() const { return buffers_; }

  /// Backwards, from now on, leave gradients as they are; pauses nest.
  void pause();
  void resume();

  /// Before the module is called.
  void prepare();
  /// Behind it. Throws Error for a module that has written to a parameter: each rank by its own samples.
  void check_parameters() const;

  /// Is every gradient that the results need one of the module's parameters or of the arguments?
  void check_leaves(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments);

  /// Whether a backward of a forward that begins now may average gradients.
  bool reduces() const;
  /// A result of the module, whose gradients come in several parts or each at once.
  void watch(at::Tensor& result, bool in_parts);
  std::vector<std::string> unused() const;

 private:
  void check_options() const;
  void leave_sharded(NamedTensors& trained);
  void share_buffers();

  DataParallelOptions options_;
  NamedTensors parameters_, buffers_;
  std::vector<int64_t> parameter_versions_;  // before the call
  std::vector<int64_t> buffer_versions_;     // when the buffers were last made alike
  std::shared_ptr<GradientReducer> reducer_;
  bool averages_are_known_ = false;
  int pauses_ = 0;
};

}  // namespace wanpar
