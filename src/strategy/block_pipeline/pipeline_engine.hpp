#pragma once
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/block_pipeline.hpp>

#include <deque>
#include <functional>
#include <map>
#include <optional>

#include "strategy/block_pipeline/parameter_use.hpp"
#include "strategy/block_pipeline/pipeline_runner.hpp"
#include "strategy/block_pipeline/pipeline_stack.hpp"

namespace wanpar {

/// One rank's side of the strategy: takes the place of the loop over the blocks.
class PipelineEngine : public BlocksHandler,
                       public OperatorHandler,
                       public std::enable_shared_from_this<PipelineEngine> {
 public:
  PipelineEngine(BlockPipelineOptions options, NamedTensors parameters, NamedTensors buffers);

  const Communicator& stages() const { return options_.stages; }
  const BlockPipelineOptions& options() const { return options_; }
  const NamedTensors& parameters() const { return parameters_; }
  bool is_first() const { return stages().rank() == 0; }
  bool is_last() const { return stages().rank() == stages().size() - 1; }
  std::vector<PipelineEvent>& trace() { return trace_; }
  /// The stacks met so far, in the order in which a forward runs them.
  std::deque<PipelineStack>& stacks() { return stacks_; }
  /// What stages give, by what they were given.
  std::map<std::string, Boundaries>& learnt() { return learnt_; }
  /// Tells that parameters differ by stage from now on.
  void set_trained() { is_trained_ = true; }

  void begin();
  void end();
  void rebalance(const Communicator& replicas);
  void synchronize();

  /// One micro-batch on its way through the module of a stage, in training.
  struct Passage {
    at::Tensor received = {};  ///< in place of what comes before the blocks; none on the first stage
    bool is_cut;               ///< whether there are other micro-batches
    at::Tensor left = {};      ///< what the blocks gave; what comes after runs on the last stage alone
  };
  void set_passage(Passage* passage) { passage_ = passage; }
  /// Throws Error when the module has run no blocks.
  void end_passage() const;

  /// Which parameters the pass at hand uses.
  ParameterUse& use() { return use_; }
  void check_use(ParameterUse::Shared shared) const {
    use_.check(parameters_, stacks_, stages().rank(), shared);
  }

  at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                        const NextBlocks& next) override;
  bool intercepts_operators() const override { return use_.is_examining(); }
  Tensors around(const Operator& op, const Next& next) override {
    use_.note(op, is_inside_);
    return next(op);
  }

 private:
  void check_memory(std::string_view what, const std::function<bool(const NamedTensor&)>& counts);
  PipelineStack& stack_for(const BlockStack& blocks);
  at::Tensor run_whole(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                       std::vector<at::Tensor> side, const NextBlocks& next);
  at::Tensor run_mine(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                      std::vector<at::Tensor> side, const NextBlocks& next);
  at::Tensor run_and_check(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                           std::vector<at::Tensor> side, const NextBlocks& next, bool is_cut);

  BlockPipelineOptions options_;
  NamedTensors parameters_;
  std::deque<PipelineStack> stacks_;
  size_t next_stack_ = 0;
  bool is_inside_ = false, is_trained_ = false, holds_own_stage_only_ = false;
  Passage* passage_ = nullptr;
  std::map<std::string, Boundaries> learnt_;
  std::vector<PipelineEvent> trace_;

  ParameterUse use_;
  bool is_examined_ = false;
};

/// Which parameters need a gradient, in a text that differs where that does.
std::string trained_among(const NamedTensors& parameters);

}  // namespace wanpar
