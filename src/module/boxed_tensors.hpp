#pragma once
#include <ATen/core/ivalue.h>

#include <span>
#include <vector>

namespace wanpar {

/// Shows each tensor among an operator's arguments or results to `look`, those in lists too, in order. Lists
/// go by what is in them: TorchScript gives those of optional tensors a type that LibTorch's own is not.
template <class Look>
void look_at_tensors(std::span<const c10::IValue> values, const Look& look) {
  for (auto& value : values) {
    if (value.isTensor() && value.toTensor().defined()) look(value.toTensor());
    if (value.isList())
      for (auto& item : value.toListRef())
        if (item.isTensor() && item.toTensor().defined()) look(item.toTensor());
  }
}

/// The tensors among an operator's arguments or results, those in lists too, in order.
std::vector<at::Tensor> tensors_among(std::span<const c10::IValue> values);

/// Puts others in their places.
void put_back(const std::vector<at::Tensor>& tensors, std::span<c10::IValue> values);

}  // namespace wanpar
