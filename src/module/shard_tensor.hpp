#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/TensorImpl.h>
#include <wanpar/core/communicator.hpp>

namespace wanpar {

/// This rank's elements of a tensor that is sharded over a group, in memory that everybody may read and
/// write: a parameter's shard, its gradient's, and what an optimizer makes of them. Its sizes are those of
/// the shard. One number made of it (a norm, a sum, a dot product) is that of the tensor on all ranks, as
/// LibTorch's clip_grad_norm_ and LBFGS want it; every rank of the group asks for it.
class ShardTensor : public c10::TensorImpl {
 public:
  ShardTensor(const at::Tensor& local, Communicator group, bool is_piece);

  const Communicator& group() const { return group_; }
  /// Some elements of a shard (a slice), of which no number is that of a whole tensor.
  bool is_piece() const { return is_piece_; }
  /// The same memory, as a tensor of this rank alone.
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

/// Null where the tensor is none.
ShardTensor* as_shard(const at::Tensor& tensor);

/// A shard over the memory of a tensor. In a group of one it is the tensor itself.
at::Tensor shard_of(const at::Tensor& local, const Communicator& group, bool is_piece = false);
/// The memory of a shard; any other tensor is itself, an undefined one too.
at::Tensor local_of(const at::Tensor& tensor);

/// Runs an operator that was given a shard. Throws Error where each rank would make something else of its
/// own.
void on_shards(const c10::OperatorHandle& op, torch::jit::Stack* stack);

}  // namespace wanpar
