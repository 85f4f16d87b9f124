#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/module/attention.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "module/split/split_place.hpp"

namespace wanpar {

class SplitCall;

/// The ranks that tensors are split over, and what operators on those need of them. All but `rank` and
/// `layout` are collective, and know nothing of autograd; attention does.
class SplitGroup {
 public:
  virtual ~SplitGroup() = default;

  virtual int rank() const = 0;
  /// How that many tokens are shared where nobody has said otherwise.
  virtual TokenLayout layout(int64_t total) const = 0;
  /// The ranks' parts, joined along dim in the order of the whole.
  virtual at::Tensor joined(const at::Tensor& part, int64_t dim, const TokenLayout& layout) const = 0;
  virtual at::Tensor sum(const at::Tensor& x) const = 0;
  virtual at::Tensor greatest(const at::Tensor& x) const = 0;
  /// This rank's tokens with the `left` ones before and the `right` ones behind them, zeros where the
  /// sequence has ended. Tokens must lie in order.
  virtual at::Tensor with_halo(const at::Tensor& part, int64_t dim, const TokenLayout& layout, int64_t left,
                               int64_t right) const = 0;
  /// Its adjoint: what each rank has of its neighbours' tokens is added to them there.
  virtual at::Tensor accumulate_halo(const at::Tensor& extended, int64_t dim, const TokenLayout& layout,
                                     int64_t left, int64_t right) const = 0;
  /// Mean and variance [2, …] of elements of all ranks, by the sums [2, …] of this rank's, `here` of them,
  /// and of their squares, where the others' need not be of now; none where they are to be summed over the
  /// ranks.
  virtual std::optional<at::Tensor> moments(const std::function<at::Tensor()>& /*sums*/,
                                            double /*here*/) const {
    return {};
  }
  /// Attention of which some inputs are split.
  virtual at::Tensor attention(const Attention& call) const = 0;
  /// An operator is called, some of whose arguments are split; what is not is to be alike on all ranks.
  virtual void meets(const SplitCall& call) const = 0;
  /// Whose ranks they are, for errors: "SequenceParallel".
  virtual const std::string& name() const = 0;
};

}  // namespace wanpar
