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

/// One rank's side of the strategy: takes the place of the loop over the blocks.
class PipelineEngine : public BlocksHandler, public std::enable_shared_from_this<PipelineEngine> {
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

  /// Collective. A pass through the module begins, which every rank has called with these.
  void begin_pass(const Arguments& given);
  void begin_pass();
  /// It has come to its end.
  void end_pass(const NamedTensors& results);
  void rebalance(const Communicator& replicas);
  void synchronize();

  /// One micro-batch on its way through the module of a stage, in training.
  struct Passage {
    at::Tensor received = {};  ///< in place of what comes before the blocks; none on the first stage
    bool is_split;             ///< whether there are other micro-batches
    at::Tensor left = {};      ///< what the blocks gave; what comes after runs on the last stage alone
  };
  void set_passage(Passage* passage) { passage_ = passage; }
  /// Throws Error when the module has run no blocks.
  void end_passage() const;

  /// Throws Error where `results` depend on parameters whose gradients would not be whole, other than through
  /// `arguments`.
  void check_outside(const Tensors& results, const Tensors& arguments, Shared shared) const;
  /// Throws Error where the ranks are threads that share the parameters.
  void check_own_parameters() const;
  /// The parameters, where threads share them.
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

  /// What a stack was given, and gives, where its first block has written to the one.
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
  std::vector<Written> written_;  // in the pass at hand
};

/// Which parameters need a gradient, in a text that differs where that does.
std::string trained_among(const NamedTensors& parameters);

}  // namespace wanpar
