#pragma once
#include <wanpar/module/parameters.hpp>

#include <span>
#include <vector>

namespace wanpar {

/// Places in a list of tensors that travel as one flat tensor: of one dtype and device.
using Bucket = std::vector<size_t>;

/// The tensors that `order` lists, in buckets of at most `bytes` (a larger tensor has one of its own). The
/// bucket that is complete first comes first.
std::vector<Bucket> cut_into_buckets(const NamedTensors& tensors, std::span<const size_t> order,
                                     int64_t bytes);

}  // namespace wanpar
