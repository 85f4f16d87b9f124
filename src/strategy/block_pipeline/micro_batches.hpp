#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/strategy/block_pipeline.hpp>

#include <span>
#include <vector>

namespace wanpar {

/// How a batch is cut: as even as whole numbers allow, in fewer pieces where there are fewer samples.
std::vector<int64_t> micro_batch_sizes(int64_t samples, int64_t micro_batches);

/// The samples of one micro-batch, along dimension 0.
at::Tensor samples_of(const at::Tensor& x, std::span<const int64_t> sizes, int64_t micro_batch);

/// How each side tensor goes with the micro-batches of a batch: as `stated`, or as its shape tells. Throws
/// Error for one that cannot go as stated, or that its shape does not tell of.
std::vector<Side> sides_of(const std::vector<at::Tensor>& side, const std::vector<Side>& stated,
                           int64_t samples, size_t micro_batches);

}  // namespace wanpar
