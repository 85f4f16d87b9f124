#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "module/split/token_layout.hpp"

namespace wanpar {

/// The tokens at both ends of each rank's share, which others look at: the first `right` and the last `left`,
/// all of a share that has no more. Collected from all ranks in order, they hold every token that any rank
/// needs beside its own.
class HaloLayout {
 public:
  HaloLayout(const TokenLayout& layout, int ring, int ulysses, int ring_rank, int ulysses_rank, int64_t left,
             int64_t right);

  /// Where this rank's edges lie in its share.
  at::Tensor own(at::Device device) const;
  /// How many edges each rank of this ulysses group has, and each ulysses group of the ring.
  const std::vector<int64_t>& row() const { return row_; }
  const std::vector<int64_t>& rows() const { return rows_; }
  /// And all ranks together.
  int64_t size() const { return static_cast<int64_t>(all_.size()); }
  /// How many tokens this rank has.
  int64_t length() const { return mine_.size(); }

  /// The share with its neighbours on both sides, zeros beyond the sequence.
  at::Tensor extended(const at::Tensor& part, const at::Tensor& all, int64_t dim) const;
  /// What such an extended share takes of all edges, in its adjoint: zeros but for the neighbours.
  at::Tensor taken(const at::Tensor& extended, int64_t dim) const;
  /// Of all edges those of this rank.
  at::Tensor of_this_rank(const at::Tensor& all, int64_t dim) const;

 private:
  std::vector<int64_t> places(int64_t begin, int64_t end) const;

  int64_t left_, right_, total_ = 0;
  Range mine_{0, 0};
  std::vector<int64_t> own_, row_, rows_;
  std::vector<int64_t> all_;  // the token that each edge is, in order
  int64_t begin_ = 0;         // where this rank's are among them
};

}  // namespace wanpar
