#pragma once
#include <wanpar/module/parameters.hpp>

#include <span>
#include <vector>

namespace wanpar {

/// Indices of tensors of one dtype and device that are communicated as one flat tensor.
using Bucket = std::vector<size_t>;

/// Assigns the tensors, in `order`, to buckets of at most `bytes` (a larger tensor gets its own). Buckets are
/// sorted by when they are complete.
std::vector<Bucket> cut_into_buckets(const NamedTensors& tensors, std::span<const size_t> order,
                                     int64_t bytes);

}  // namespace wanpar
