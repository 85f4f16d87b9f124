#pragma once
#include <ATen/core/ivalue.h>

#include <span>
#include <vector>

namespace wanpar {

/// Calls `look` for each tensor among an operator's arguments or results, including those in lists, in order.
/// Lists are inspected element by element: TorchScript's type of lists of optional tensors differs from
/// LibTorch's.
template <class Look>
void look_at_tensors(std::span<const c10::IValue> values, const Look& look) {
  for (auto& value : values) {
    if (value.isTensor() && value.toTensor().defined()) look(value.toTensor());
    if (value.isList())
      for (auto& item : value.toListRef())
        if (item.isTensor() && item.toTensor().defined()) look(item.toTensor());
  }
}

/// The tensors among an operator's arguments or results, including those in lists, in order.
std::vector<at::Tensor> tensors_among(std::span<const c10::IValue> values);

/// Replaces these tensors, in the same order.
void put_back(const std::vector<at::Tensor>& tensors, std::span<c10::IValue> values);

}  // namespace wanpar
