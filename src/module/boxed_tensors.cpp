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
    if (!value.isList() || tensors_among(std::span(&value, 1)).empty()) continue;
    auto list = value.toList().copy();
    for (size_t i = 0; i < list.size(); ++i) {
      const c10::IValue item = list.get(i);
      if (item.isTensor() && item.toTensor().defined()) list.set(i, *next++);
    }
    value = std::move(list);
  }
}

}  // namespace wanpar
