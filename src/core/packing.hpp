#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace wanpar {

// How tensors become flat memory that a transport may move, and tensors again.

std::vector<int64_t> times(std::span<const int64_t> counts, int64_t factor);

/// A shape with another extent along dim.
std::vector<int64_t> with_extent(at::IntArrayRef shape, int64_t dim, int64_t extent);

int64_t volume(at::IntArrayRef shape);

/// Flat memory that nobody else can write to: x itself where the caller gave it away, a copy otherwise.
at::Tensor private_flat(at::Tensor x);

/// Flat memory as numbers that every transport can reduce, one or, of a complex tensor, two an element: bool
/// as uint8, int16 as int32. And back.
at::Tensor as_reducible(const at::Tensor& flat);
at::Tensor from_reducible(const at::Tensor& flat, at::ScalarType dtype);

/// Flat pieces, one behind the other, as tensors of the given shapes joined along dim.
at::Tensor join(const at::Tensor& flat, const std::vector<std::vector<int64_t>>& shapes, int64_t dim);

/// x cut along dim, the pieces one behind the other in memory that nobody else can write to.
at::Tensor pack(at::Tensor x, int64_t dim, std::span<const int64_t> sizes);

}  // namespace wanpar
