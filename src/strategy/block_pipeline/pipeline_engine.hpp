#pragma once
#include <wanpar/extend/module/forward_scope.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/strategy/block_pipeline.hpp>

#include <deque>
#include <functional>
#include <map>
#include <optional>

#include "strategy/block_pipeline/parameter_use.hpp"
#include "strategy/block_pipeline/pipeline_runner.hpp"
#include "strategy/block_pipeline/pipeline_stack.hpp"

namespace wanpar {

/// BlockPipeline on one rank: replaces the loop over the blocks.
class PipelineEngine : public BlocksHandler, public std::enable_shared_from_this<PipelineEngine> {
 public:
  PipelineEngine(BlockPipelineOptions options, NamedTensors parameters, NamedTensors buffers);

  const Communicator& stages() const { return options_.stages; }
  const BlockPipelineOptions& options() const { return options_; }
  const NamedTensors& parameters() const { return parameters_; }
  bool is_first() const { return stages().rank() == 0; }
  bool is_last() const { return stages().rank() == stages().size() - 1; }
  std::vector<PipelineEvent>& trace() { return trace_; }
  /// The block stacks seen so far, in forward order.
  std::deque<PipelineStack>& stacks() { return stacks_; }
  /// The boundaries learnt in first passes, by signature of the inputs.
  std::map<std::string, Boundaries>& learnt() { return learnt_; }
  /// Notes that parameters may differ by stage from now on.
  void set_trained() { is_trained_ = true; }

  /// Collective. Starts a pass through the module; checks that the arguments are equal on every rank.
  void begin_pass(const Arguments& given);
  void begin_pass();
  /// Ends the pass; checks that the results are equal on every rank.
  void end_pass(const NamedTensors& results);
  void rebalance(const Communicator& replicas);
  void synchronize();

  /// The pass of one micro-batch through the module of a stage, in train_step.
  struct Passage {
    at::Tensor received = {};  ///< input of the stage's blocks; undefined on the first stage
    bool is_split;             ///< whether there are several micro-batches
    at::Tensor left = {};      ///< output of the stage's blocks; the part after runs on the last stage only
  };
  void set_passage(Passage* passage) { passage_ = passage; }
  /// Throws Error if the module has run no blocks.
  void end_passage() const;

  /// Throws Error if `results` depend, other than through `arguments`, on parameters of which a stage would
  /// get only a part of the gradient.
  void check_outside(const Tensors& results, const Tensors& arguments, Shared shared) const;
  /// Throws Error if thread ranks share the parameters.
  void check_own_parameters() const;
  /// The parameters, if thread ranks share them.
  const NamedTensors& shared() const { return shared_; }

  at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                        const NextBlocks& next) override;

 private:
  void check_memory(std::string_view what, const std::function<bool(const NamedTensor&)>& counts);
  PipelineStack& stack_for(const BlockStack& blocks);
  at::Tensor run_pipelined(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                           std::vector<at::Tensor> side, const NextBlocks& next);
  at::Tensor run_on_shards(const BlockStack& blocks, const at::Tensor& x, std::vector<at::Tensor> side,
                           const NextBlocks& next);
  at::Tensor run_mine(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                      std::vector<at::Tensor> side, const NextBlocks& next, bool is_split);
  at::Tensor run_in_passage(PipelineStack& stack, const BlockStack& blocks, at::Tensor x,
                            std::vector<at::Tensor> side, const NextBlocks& next);
  void check_inside(const at::Tensor& y, Tensors given, const Tensors& side, Shared shared) const;
  void share_states(NamedTensors states);

  /// The input and output of a stack whose first block has written to its input.
  struct Written {
    at::Tensor given, result;
  };

  BlockPipelineOptions options_;
  NamedTensors parameters_, shared_;
  std::deque<PipelineStack> stacks_;
  size_t next_stack_ = 0;
  bool is_inside_ = false, is_trained_ = false, holds_own_stage_only_ = false;
  Passage* passage_ = nullptr;
  std::map<std::string, Boundaries> learnt_;
  std::vector<PipelineEvent> trace_;
  std::vector<Written> written_;  // in the current pass
};

/// Which parameters require a gradient, as text to compare.
std::string trained_among(const NamedTensors& parameters);

}  // namespace wanpar
