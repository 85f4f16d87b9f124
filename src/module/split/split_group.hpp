#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/module/attention.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "module/split/split_placement.hpp"

namespace wanpar {

class SplitCall;

/// The ranks that tensors are split over, and the communication that sharding rules need. All functions but
/// `rank` and `layout` are collective, and not differentiable, except attention.
class SplitGroup {
 public:
  virtual ~SplitGroup() = default;

  virtual int rank() const = 0;
  /// The default layout of so many tokens.
  virtual TokenLayout layout(int64_t total) const = 0;
  /// All-gathers the ranks' shards along dim, in the order of the sequence.
  virtual at::Tensor joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const = 0;
  virtual at::Tensor sum(const at::Tensor& x) const = 0;
  virtual at::Tensor greatest(const at::Tensor& x) const = 0;
  /// Halo exchange: this rank's tokens with the `left` tokens before and the `right` tokens after them; zeros
  /// beyond the sequence. Tokens must lie in order.
  virtual at::Tensor with_halo(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                               int64_t right) const = 0;
  /// The adjoint of with_halo: adds each rank's halo to the tokens of the rank that owns them.
  virtual at::Tensor accumulate_halo(const at::Tensor& extended, int64_t dim, const TokenLayout& layout,
                                     int64_t left, int64_t right) const = 0;
  /// Mean and variance [2, …] over all ranks, from this rank's sums of elements and squares [2, …] over
  /// `here` elements, if stale statistics of the other ranks are acceptable; nullopt if they must be
  /// all-reduced.
  virtual std::optional<at::Tensor> moments(const std::function<at::Tensor()>& /*sums*/,
                                            double /*here*/) const {
    return {};
  }
  /// Attention with sharded inputs.
  virtual at::Tensor attention(const Attention& call) const = 0;
  /// Notified of each operator with sharded arguments; its other arguments must be equal on all ranks.
  virtual void meets(const SplitCall& call) const = 0;
  /// The strategy, for errors: "SequenceParallel".
  virtual const std::string& name() const = 0;
};

}  // namespace wanpar
