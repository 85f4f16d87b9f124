#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "train/random.hpp"
#include "train/task.hpp"

namespace wan::train {

/// Standard normal values [count, shape...] for the samples of a part, float32: drawn for the samples of all
/// ranks, so that each has the same on any number of ranks. They differ by `stream`, and by device.
at::Tensor noise_for(const Share& share, at::IntArrayRef shape, uint64_t seed, Stream stream,
                     at::Device device);

}  // namespace wan::train
