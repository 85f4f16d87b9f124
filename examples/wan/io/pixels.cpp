#include "wan/io/pixels.hpp"

#include <ATen/ATen.h>

namespace wan {

at::Tensor to_pixels(const at::Tensor& frame) {
  return ((frame.to(at::kFloat).clamp(-1, 1) + 1) / 2 * 255)
      .to(at::kByte)
      .permute({1, 2, 0})
      .cpu()
      .contiguous();
}

}  // namespace wan
