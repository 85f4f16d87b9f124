#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wanpar::conformance {

extern const std::vector<at::ScalarType> kReducible, kBytesAlone, kMovable;

/// What rank r holds: small whole numbers, exact in every dtype, different on every rank.
at::Tensor values(int rank, std::vector<int64_t> shape, at::ScalarType dtype);

/// Rank r's extent where extents are uneven; rank 1's is empty.
std::vector<int64_t> uneven(int ranks);

}  // namespace wanpar::conformance
