#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace wan::demo {

/// Standard normal values, seeded by the name alone: the order of drawing does not matter.
at::Tensor normal(const std::string& name, at::IntArrayRef shape);

/// The same for the weight of a layer, [out, in, ...], which then multiplies the spread of its input by
/// `gain`.
at::Tensor normal_weight(const std::string& name, at::IntArrayRef shape, double gain);

}  // namespace wan::demo
