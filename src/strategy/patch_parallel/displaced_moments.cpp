#include "strategy/patch_parallel/displaced_moments.hpp"

#include <ATen/ATen.h>

namespace wanpar {
namespace {

/// Means of elements and squares, [2, n], from sums and the number of elements.
at::Tensor means(const at::Tensor& sums) {
  const auto n = sums.size(0) - 1;
  return (sums.narrow(0, 0, n) / sums[n].clamp_min(1)).view({2, -1});
}

at::Tensor variance(const at::Tensor& means) { return means[1] - means[0].square(); }

}  // namespace

at::Tensor displaced_moments(NormMode mode, const at::Tensor& own, const at::Tensor& before, int64_t here) {
  const auto all = before.sum(0), own_before = before[here];
  at::Tensor of_all, of_variance;
  if (mode == NormMode::stale) {
    of_all = means(all - own_before + own);
    of_variance = variance(of_all).clamp_min(0);
  } else {
    of_all = means(all) + means(own) - means(own_before);
    of_variance = variance(of_all);
    of_variance = at::where(of_variance < 0, variance(means(own)).clamp_min(0), of_variance);
  }
  return at::cat({of_all[0], of_variance});
}

}  // namespace wanpar
