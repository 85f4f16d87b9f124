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
  bool is_whole() const { return options_.mode == BatchMode::whole; }
  const NamedTensors& buffers() const { return buffers_; }

  void pause() { ++pauses_; }
  void resume() { --pauses_; }

  /// Before the module is called.
  void prepare();

  /// Is every gradient that the results need one of the module's parameters or of the arguments? Asked in the
  /// first forward that has a gradient.
  void check_leaves(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments);

  /// Whether the backward of a forward that begins now averages gradients.
  bool reduces() const;
  /// A result of the module, whose gradients come in several parts or each at once.
  void watch(at::Tensor& result, bool in_parts);
  std::vector<std::string> unused() const;

 private:
  void check_options() const;
  void leave_sharded(NamedTensors& trained);

  DataParallelOptions options_;
  NamedTensors parameters_, buffers_;
  std::shared_ptr<GradientReducer> reducer_;
  bool leaves_are_known_ = false, averages_are_known_ = false;
  int pauses_ = 0;
};

}  // namespace wanpar
