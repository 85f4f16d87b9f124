#pragma once
#include <ATen/core/DimVector.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/TensorImpl.h>

#include <memory>
#include <optional>
#include <vector>

#include "module/split/split_group.hpp"

namespace wanpar {

/// A distributed tensor (cf. DTensor): each rank holds a shard, but sizes and strides are global. It lives
/// below autograd, which sees an ordinary tensor, and has no storage that could be accessed without the
/// dispatcher.
///
/// Operators on it run on the shards (src/module/split/dispatch.cpp).
class SplitTensor : public c10::TensorImpl {
 public:
  /// Global sizes, strides and offset.
  struct Geometry {
    at::DimVector sizes, strides;
    int64_t offset = 0;

    static Geometry of(const at::Tensor& tensor) {
      return {at::DimVector(tensor.sizes()), at::DimVector(tensor.strides()), tensor.storage_offset()};
    }
    /// A tensor of this geometry without memory.
    at::Tensor without_memory(at::ScalarType dtype) const;
  };
  /// Counts writes to memory that several tensors may be views of.
  using Writes = std::shared_ptr<int64_t>;

  /// Describes a copy that stands for a view which no shard holds (one token, a window): it is renewed when
  /// its base has been written to, and written back when it has been written to itself.
  struct View {
    at::Tensor base;
    c10::OperatorHandle op;
    std::vector<c10::IValue> arguments;
    size_t output;
    int64_t as_of;  // of the base's writes
  };

  SplitTensor(at::Tensor part, SplitPlacement place, std::shared_ptr<const SplitGroup> group,
              const std::optional<Geometry>& geometry, Writes writes);
  SplitTensor(at::Tensor content, std::shared_ptr<View> view, std::shared_ptr<const SplitGroup> group,
              const Geometry& geometry, Writes writes);

  /// This rank's shard.
  const at::Tensor& part() const { return part_; }
  /// nullopt for a copy that stands for a view.
  const std::optional<SplitPlacement>& place() const { return place_; }
  const std::shared_ptr<View>& view() const { return view_; }
  const std::shared_ptr<const SplitGroup>& group() const { return group_; }
  const Writes& writes() const { return writes_; }
  Geometry geometry() const;
  /// Views of it must not be written to.
  bool is_read_only() const { return is_read_only_; }
  void make_read_only() { is_read_only_ = true; }
  /// Replaces the content of a copy that stands for a view.
  void renew(at::Tensor content) { part_ = std::move(content); }

  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(const c10::VariableVersion& version,
                                                         bool allow_change) const override;
  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(c10::VariableVersion&& version,
                                                         bool allow_change) const override;
  void shallow_copy_from(const c10::intrusive_ptr<TensorImpl>& other) override;

 private:
  const char* tensorimpl_type_name() const override;
  c10::intrusive_ptr<SplitTensor> copied() const;
  void settle(const Geometry& geometry);

  at::Tensor part_;
  std::optional<SplitPlacement> place_;
  std::shared_ptr<View> view_;
  std::shared_ptr<const SplitGroup> group_;
  Writes writes_;
  bool is_read_only_ = false;
};

/// Null if the tensor is not split.
SplitTensor* as_split(const at::Tensor& tensor);
/// The placement of a split tensor; null for other tensors, and for a copy that stands for a view.
const SplitPlacement* placement_of(const at::Tensor& tensor);

/// The split tensor with this rank's shard `part`. Without `geometry`, its strides are derived from the
/// shard's.
at::Tensor split_tensor(at::Tensor part, SplitPlacement place, std::shared_ptr<const SplitGroup> group,
                        const std::optional<SplitTensor::Geometry>& geometry = {});

/// This rank's shard of a full tensor; a view if it is contiguous.
at::Tensor part_of(const at::Tensor& whole, const SplitPlacement& place);
/// Collective. All-gathers a split tensor, not differentiable; any other tensor is returned as is.
at::Tensor full_tensor(const at::Tensor& tensor);

// Differentiable versions. The gradient of a split tensor may be split or full.

/// Shards a replicated tensor; the gradient is gathered.
at::Tensor split(const at::Tensor& whole, const SplitPlacement& place,
                 std::shared_ptr<const SplitGroup> group);
/// Collective. Unshards a split tensor; the gradient is sharded.
at::Tensor unsplit(const at::Tensor& tensor);
/// This rank's shard as a plain tensor, for local computation (cf. DTensor::to_local).
at::Tensor part_in_graph(const at::Tensor& tensor);
/// The split tensor of a locally computed shard (cf. DTensor::from_local).
at::Tensor of_parts(const at::Tensor& part, const SplitPlacement& place,
                    std::shared_ptr<const SplitGroup> group,
                    const std::optional<SplitTensor::Geometry>& geometry = {});

/// Makes the gradient of a replicated input replicated, too (unsharded if it arrives split).
void keep_gradient_replicated(const at::Tensor& whole);

}  // namespace wanpar
