#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/TensorImpl.h>
#include <wanpar/core/communicator.hpp>

namespace wanpar {

/// This rank's shard of a tensor that is sharded over a group: of a parameter, of its gradient, or of
/// optimizer state. Its sizes are those of the shard, and its memory is ordinary memory. A reduction to one
/// number (norm, sum, dot product) is collective, and gives that of the full tensor, as LibTorch's
/// clip_grad_norm_ and LBFGS need it.
class ShardTensor : public c10::TensorImpl {
 public:
  ShardTensor(const at::Tensor& local, Communicator group, bool is_piece);

  const Communicator& group() const { return group_; }
  /// A slice of a shard, whose reductions would not be those of a full tensor.
  bool is_piece() const { return is_piece_; }
  /// The same memory as a plain tensor.
  at::Tensor local();

  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(const c10::VariableVersion& version,
                                                         bool allow_change) const override;
  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(c10::VariableVersion&& version,
                                                         bool allow_change) const override;
  void shallow_copy_from(const c10::intrusive_ptr<TensorImpl>& other) override;

 private:
  at::Tensor memory() const;

  Communicator group_;
  bool is_piece_;
};

/// Null if the tensor is not a shard.
ShardTensor* as_shard(const at::Tensor& tensor);

/// A shard that shares the memory of a tensor. In a group of one, the tensor itself.
at::Tensor shard_of(const at::Tensor& local, const Communicator& group, bool is_piece = false);
/// A shard as a plain tensor; any other tensor (undefined ones, too) as is.
at::Tensor local_of(const at::Tensor& tensor);

/// Runs an operator on shards. Throws Error if the result would depend on how the tensor is sharded.
void on_shards(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace wanpar
