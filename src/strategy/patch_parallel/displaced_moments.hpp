#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/strategy/patch_parallel.hpp>

namespace wanpar {

/// Mean and variance, [2 n], of n groups by sums of elements and of their squares with the number of those,
/// [2 n + 1]: this patch's `own`, and each patch's of the step before, [patches, 2 n + 1], of which this is
/// the one `here`. Where the corrected variance is negative it is the patch's own, as in DistriFusion.
at::Tensor displaced_moments(NormMode mode, const at::Tensor& own, const at::Tensor& before, int64_t here);

}  // namespace wanpar
