#include "wan/vae/bands.hpp"

#include <wanpar/strategy/patch_parallel.hpp>

namespace wan {
namespace {

constexpr int64_t kRows = 3, kColumns = 4;

}  // namespace

at::Tensor decode_by_bands(const wanpar::Communicator& group, Vae vae, const at::Tensor& latents,
                           const std::function<void(int64_t done, int64_t all)>& progress) {
  // The shorter the cut, the less lies on both sides of it. Of a square the columns: whether LibTorch takes
  // its fast convolution on a CPU goes by the rows.
  const auto dim = latents.size(kColumns) >= latents.size(kRows) ? kColumns : kRows;
  const auto decode = [&](const at::Tensor& whole) { return vae->decode(whole, progress); };
  auto by_bands = decode | wanpar::patch_parallel({.group = group, .split = {{.arg = 0, .rows = dim}}});
  return by_bands(latents);
}

}  // namespace wan
