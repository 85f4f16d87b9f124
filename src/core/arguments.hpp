#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <span>
#include <vector>

namespace wanpar {

// Validation of a call's arguments. Each function throws Error, starting with where the call was made.

void check_tensor(const at::Tensor& x, const Transport* transport, const Call& call);

/// Rejects reductions that the dtype does not support, like the mean of integers.
void check_reducible(const Call& call);

/// Wraps a negative dimension; throws Error if it is out of range.
int64_t check_dim(int64_t dim, const at::Tensor& x, const Call& call);

/// Requires one size per rank, none negative.
std::vector<int64_t> check_sizes(std::span<const int64_t> sizes, const Call& call);

/// The sizes of the pieces that x is split into along dim, one per rank: `sizes`, or equal ones if that is
/// empty.
std::vector<int64_t> split_extents(const at::Tensor& x, int64_t dim, std::span<const int64_t> sizes,
                                   const Call& call);

/// The extents of the ranks' x along dim: `sizes`, or that of x for all ranks if that is empty.
std::vector<int64_t> concat_extents(const at::Tensor& x, int64_t dim, std::span<const int64_t> sizes,
                                    const Call& call);

int64_t total(std::span<const int64_t> counts);

}  // namespace wanpar
