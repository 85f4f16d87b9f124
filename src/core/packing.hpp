#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace wanpar {

// Packs tensors into flat memory for a transport, and unpacks them.

std::vector<int64_t> times(std::span<const int64_t> counts, int64_t factor);

/// The shape with another extent along dim.
std::vector<int64_t> with_extent(at::IntArrayRef shape, int64_t dim, int64_t extent);

int64_t volume(at::IntArrayRef shape);

/// x, flattened, in memory that nobody else can write to: x itself if the caller moved it in, a copy
/// otherwise.
at::Tensor private_flat(at::Tensor x);

/// Converts a flat tensor to a dtype that every transport can reduce (bool to uint8, int16 to int32, a
/// complex number to two real ones), and back.
at::Tensor as_reducible(const at::Tensor& flat);
at::Tensor from_reducible(const at::Tensor& flat, at::ScalarType dtype);

/// Unpacks consecutive flat pieces of the given shapes, and concatenates them along dim.
at::Tensor join(const at::Tensor& flat, const std::vector<std::vector<int64_t>>& shapes, int64_t dim);

/// Splits x along dim, and packs the pieces consecutively into memory that nobody else can write to.
at::Tensor pack(at::Tensor x, int64_t dim, std::span<const int64_t> sizes);

}  // namespace wanpar
