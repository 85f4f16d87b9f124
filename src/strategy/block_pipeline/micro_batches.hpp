#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/strategy/block_pipeline.hpp>

#include <span>
#include <vector>

namespace wanpar {

/// The sizes of the micro-batches: they differ by at most one; fewer micro-batches if there are fewer
/// samples.
std::vector<int64_t> micro_batch_sizes(int64_t samples, int64_t micro_batches);

/// The samples of one micro-batch, along dimension 0.
at::Tensor samples_of(const at::Tensor& x, std::span<const int64_t> sizes, int64_t micro_batch);

/// Whether each side tensor is split or replicated over the micro-batches: as `stated`, or inferred from its
/// shape. Throws Error if a stated split does not fit the shape, or if the shape is ambiguous.
std::vector<Side> sides_of(const std::vector<at::Tensor>& side, const std::vector<Side>& stated,
                           int64_t samples, size_t micro_batches);

}  // namespace wanpar
