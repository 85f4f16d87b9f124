#pragma once
#include <ATen/core/ivalue.h>

#include <optional>
#include <span>
#include <vector>

namespace wanpar {

/// Shows each tensor among an operator's arguments or results to `look`, those in lists too, in order.
template <class Look>
void look_at_tensors(std::span<const c10::IValue> values, const Look& look) {
  for (auto& value : values) {
    if (value.isTensor() && value.toTensor().defined()) look(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& tensor : value.toTensorVector()) look(tensor);
    if (value.isOptionalTensorList())
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        if (tensor && tensor->defined()) look(*tensor);
  }
}

/// The tensors among an operator's arguments or results, those in lists too, in order.
std::vector<at::Tensor> tensors_among(std::span<const c10::IValue> values);

/// Puts others in their places.
void put_back(const std::vector<at::Tensor>& tensors, std::span<c10::IValue> values);

}  // namespace wanpar
