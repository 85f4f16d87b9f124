#pragma once
#include <ATen/core/Tensor.h>

namespace wan {

/// Pixels of one frame: [3, height, width] in [-1, 1] to [height, width, 3] uint8 on the CPU.
/// Values are truncated, not rounded, as the official code does.
at::Tensor to_pixels(const at::Tensor& frame);

}  // namespace wan
