#pragma once
#include <ATen/core/Tensor.h>

#include <unordered_map>

namespace wan {

class CausalConvImpl;

/// What one video's encoding or decoding remembers between its parts: the last input frames of each causal
/// convolution, [batch, channels, 0..2, height, width]. Start each video with an empty one.
using FeatureCache = std::unordered_map<const CausalConvImpl*, at::Tensor>;

}  // namespace wan
