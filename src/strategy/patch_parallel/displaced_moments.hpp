#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/strategy/patch_parallel.hpp>

namespace wanpar {

/// Mean and variance, [2 n], of n groups, from sums of elements and squares and the element count, [2 n + 1]:
/// this patch's `own` of this step, and all patches' of the previous step, `before` [patches, 2 n + 1], where
/// `here` is this patch. If the corrected variance is negative, the patch's own is used, as in DistriFusion.
at::Tensor displaced_moments(NormMode mode, const at::Tensor& own, const at::Tensor& before, int64_t here);

}  // namespace wanpar
