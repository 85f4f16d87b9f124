#pragma once
#include <ATen/core/Tensor.h>

/// Where everything in this folder runs: NCCL's ranks take it too. Without such a device it is all skipped.
inline const at::Device kCuda(at::kCUDA, 0);
bool no_cuda();

/// From here on products and convolutions of float32 are computed in float32, not in TF32.
void without_tf32();

/// Of the difference, over that of what is expected; whatever the device and the dtype.
double relative_error(const at::Tensor& actual, const at::Tensor& expected);
/// Throws unless it is at most the tolerance.
void require_relative(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                      const std::string& claim);
