#include "module/boxed_tensors.hpp"

namespace wanpar {
std::vector<at::Tensor> tensors_among(std::span<const c10::IValue> values) {
  std::vector<at::Tensor> tensors;
  look_at_tensors(values, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

void put_back(const std::vector<at::Tensor>& tensors, std::span<c10::IValue> values) {
  auto next = tensors.begin();
  for (auto& value : values) {
    if (value.isTensor() && value.toTensor().defined()) value = *next++;
    if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& tensor : list) tensor = *next++;
      value = std::move(list);
    }
    if (value.isOptionalTensorList()) {
      auto list = value.toOptionalTensorVector();
      for (auto& tensor : list)
        if (tensor && tensor->defined()) tensor = *next++;
      value = c10::List<std::optional<at::Tensor>>(list);
    }
  }
}

}  // namespace wanpar
