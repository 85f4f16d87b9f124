#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <span>
#include <vector>

namespace wanpar {

// What a call's arguments must be. Each throws Error that begins with where the call stands.

void check_tensor(const at::Tensor& x, const Transport* transport, const Call& call);

/// That this operation is one for this dtype: a mean of whole numbers is none.
void check_reducible(const Call& call);

/// The dimension counted from the front.
int64_t check_dim(int64_t dim, const at::Tensor& x, const Call& call);

/// One size a rank, none negative.
std::vector<int64_t> check_sizes(std::span<const int64_t> sizes, const Call& call);

/// The pieces that x is cut into along dim, one a rank: `sizes`, or even ones where that is empty.
std::vector<int64_t> split_extents(const at::Tensor& x, int64_t dim, std::span<const int64_t> sizes,
                                   const Call& call);

/// The extents of the ranks' x along dim: `sizes`, or that of x for each where that is empty.
std::vector<int64_t> concat_extents(const at::Tensor& x, int64_t dim, std::span<const int64_t> sizes,
                                    const Call& call);

int64_t total(std::span<const int64_t> counts);

}  // namespace wanpar
