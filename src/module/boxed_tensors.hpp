#pragma once
#include <ATen/core/ivalue.h>

#include <span>
#include <vector>

namespace wanpar {

/// The tensors among an operator's arguments or results, those in lists too, in order.
std::vector<at::Tensor> tensors_among(std::span<const c10::IValue> values);

/// Puts others in their places.
void put_back(const std::vector<at::Tensor>& tensors, std::span<c10::IValue> values);

}  // namespace wanpar
