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

/// A tensor of which each rank holds a part, and which is for whoever asks what it would be on one rank: its
/// sizes and strides are those of the whole. It lies below autograd, which sees one tensor like any other,
/// and has no memory of its own to be read past the dispatcher.
///
/// Operators on it run on the parts (src/module/split/dispatch.cpp).
class SplitTensor : public c10::TensorImpl {
 public:
  /// Of the whole.
  struct Geometry {
    at::DimVector sizes, strides;
    int64_t offset = 0;

    static Geometry of(const at::Tensor& tensor) {
      return {at::DimVector(tensor.sizes()), at::DimVector(tensor.strides()), tensor.storage_offset()};
    }
    /// A tensor without memory that lies so.
    at::Tensor without_memory(at::ScalarType dtype) const;
  };
  /// Counts what is written to memory that several tensors may be views of.
  using Writes = std::shared_ptr<int64_t>;

  /// What stands where one rank has a view that no part holds (one token, a window): a copy of it, renewed
  /// when its base has been written to, and written back when it has been.
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

  /// This rank's part.
  const at::Tensor& part() const { return part_; }
  /// None for a copy of a view.
  const std::optional<SplitPlacement>& place() const { return place_; }
  const std::shared_ptr<View>& view() const { return view_; }
  const std::shared_ptr<const SplitGroup>& group() const { return group_; }
  const Writes& writes() const { return writes_; }
  Geometry geometry() const;
  /// What stands for a view of it may not be written to.
  bool is_read_only() const { return is_read_only_; }
  void make_read_only() { is_read_only_ = true; }
  /// Puts another content in the place of a copy of a view.
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

/// Null where the tensor is none.
SplitTensor* as_split(const at::Tensor& tensor);
/// Null where no part of it is split: for a copy of a view, too.
const SplitPlacement* placement_of(const at::Tensor& tensor);

/// A tensor of which this is the part of this rank. Its strides follow from those of the part where they are
/// not given.
at::Tensor split_tensor(at::Tensor part, SplitPlacement place, std::shared_ptr<const SplitGroup> group,
                        const std::optional<SplitTensor::Geometry>& geometry = {});

/// This rank's elements of a whole tensor: a view where they lie side by side.
at::Tensor part_of(const at::Tensor& whole, const SplitPlacement& place);
/// Collective. The tensor as one rank would have it, out of autograd's sight; itself where it is not split.
at::Tensor full_tensor(const at::Tensor& tensor);

// The same as parts of a graph: gradients that come for a split tensor may be split or whole, as what they
// are the gradients of may.

/// This rank's part of what it is given, whole; the gradient is joined.
at::Tensor split(const at::Tensor& whole, const SplitPlacement& place,
                 std::shared_ptr<const SplitGroup> group);
/// Collective. The gradient is cut.
at::Tensor unsplit(const at::Tensor& tensor);
/// The part of this rank, in which to compute something that gives parts.
at::Tensor part_in_graph(const at::Tensor& tensor);
/// What has been computed with parts.
at::Tensor of_parts(const at::Tensor& part, const SplitPlacement& place,
                    std::shared_ptr<const SplitGroup> group,
                    const std::optional<SplitTensor::Geometry>& geometry = {});

/// A whole tensor that meets parts gets a whole gradient.
void keep_gradient_replicated(const at::Tensor& whole);

}  // namespace wanpar
