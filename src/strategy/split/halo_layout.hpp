#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// The layout of a halo exchange by all-gather: each rank contributes its boundary tokens, the first `right`
/// and the last `left` of its shard (all of a smaller shard). Gathered in rank order, they contain the halo
/// of every rank.
class HaloLayout {
 public:
  HaloLayout(const TokenLayout& layout, int ring, int ulysses, int ring_rank, int ulysses_rank, int64_t left,
             int64_t right);

  /// The indices of this rank's boundary tokens in its shard.
  at::Tensor own(at::Device device) const;
  /// The number of boundary tokens of each rank of this ulysses group, and of each ulysses group of the ring.
  const std::vector<int64_t>& row() const { return row_; }
  const std::vector<int64_t>& rows() const { return rows_; }
  /// The number of boundary tokens of all ranks.
  int64_t size() const { return static_cast<int64_t>(all_.size()); }
  /// The number of tokens of this rank.
  int64_t length() const { return mine_.size(); }

  /// The shard with its halo on both sides, taken from the gathered boundary tokens; zeros beyond the
  /// sequence.
  at::Tensor extended(const at::Tensor& part, const at::Tensor& all, int64_t dim) const;
  /// The adjoint of extended(): adds the halo of an extended shard to zeros for all boundary tokens.
  at::Tensor taken(const at::Tensor& extended, int64_t dim) const;
  /// This rank's part of all boundary tokens.
  at::Tensor of_this_rank(const at::Tensor& all, int64_t dim) const;

 private:
  std::vector<int64_t> places(int64_t begin, int64_t end) const;

  int64_t left_, right_, total_ = 0;
  Range mine_{0, 0};
  std::vector<int64_t> own_, row_, rows_;
  std::vector<int64_t> all_;  // the boundary tokens, in order
  int64_t begin_ = 0;         // index of this rank's first one
};

}  // namespace wanpar
