#pragma once
#include "strategy/block_pipeline/pipeline_engine.hpp"

namespace wanpar {

/// What a forward over the stages keeps for its backward: this stage's part of the graph, a micro-batch at a
/// time, cut off at leaves where tensors come in.
class PipelineTape : public std::enable_shared_from_this<PipelineTape> {
 public:
  PipelineTape(std::shared_ptr<PipelineEngine> engine, std::vector<int64_t> sizes, at::Tensor x,
               std::vector<at::Tensor> side, std::vector<Side> side_kinds);

  /// What the blocks are to be given for a micro-batch, with a leaf behind it; `received` is one already.
  at::Tensor enter(int64_t micro_batch, const at::Tensor& received);
  /// The leaves at which this stage's graph of a micro-batch ends.
  Tensors given(int64_t micro_batch) const;
  const std::vector<at::Tensor>& side(int64_t micro_batch) const { return sides_[micro_batch]; }
  void leave(int64_t micro_batch, at::Tensor y) { left_[micro_batch] = std::move(y); }

  /// The result of all stages with this tape as its history.
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
