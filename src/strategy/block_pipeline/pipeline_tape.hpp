#pragma once
#include "strategy/block_pipeline/pipeline_engine.hpp"

namespace wanpar {

/// What a pipelined forward saves for backward: this stage's part of the autograd graph for each micro-batch,
/// detached at leaves where tensors enter the stage.
class PipelineTape : public std::enable_shared_from_this<PipelineTape> {
 public:
  PipelineTape(std::shared_ptr<PipelineEngine> engine, std::vector<int64_t> sizes, at::Tensor x,
               std::vector<at::Tensor> side, std::vector<Side> side_kinds);

  /// The blocks' input for a micro-batch: a non-leaf over a leaf, which is `received`, or the samples of x on
  /// the first stage.
  at::Tensor enter(int64_t micro_batch, const at::Tensor& received);
  /// The leaves of this stage's graph for a micro-batch.
  Tensors given(int64_t micro_batch) const;
  const std::vector<at::Tensor>& side(int64_t micro_batch) const { return sides_[micro_batch]; }
  void leave(int64_t micro_batch, at::Tensor y) { left_[micro_batch] = std::move(y); }

  /// The result of the pipeline with this tape as its grad_fn.
  static at::Tensor attach(std::shared_ptr<PipelineTape> tape, at::Tensor result, Boundaries boundaries);

 private:
  struct Node;
  std::vector<at::Tensor> backward(const at::Tensor& gradient);
  at::Tensor gradient_of_x();
  at::Tensor gradient_of_side(size_t index);
  at::Tensor joined(const std::vector<at::Tensor>& gradients, const at::Tensor& like) const;

  std::shared_ptr<PipelineEngine> engine_;
  std::vector<int64_t> sizes_;
  at::Tensor x_;
  std::vector<at::Tensor> given_side_;
  std::vector<Side> side_kinds_;
  Boundaries boundaries_;
  bool is_spent_ = false, is_going_back_ = false;

  std::vector<at::Tensor> entered_, left_;      // by micro-batch
  std::vector<std::vector<at::Tensor>> sides_;  // by micro-batch
};

}  // namespace wanpar
