#include <ATen/ops/zero.h>
#include <wanpar/module/parameters.hpp>

#include <unordered_set>

namespace wanpar {

std::vector<at::Tensor> tensors_in(const NamedTensors& tensors) {
  std::vector<at::Tensor> once;
  std::unordered_set<const at::TensorImpl*> seen;
  for (auto& [name, tensor] : tensors)
    if (seen.insert(tensor.unsafeGetTensorImpl()).second) once.push_back(tensor);
  return once;
}

void clear_gradients(const std::vector<at::Tensor>& parameters, bool set_to_none) {
  for (auto& parameter : parameters) {
    auto& gradient = parameter.mutable_grad();
    if (!gradient.defined()) continue;
    if (set_to_none)
      gradient.reset();
    else
      gradient.detach_().zero_();
  }
}

}  // namespace wanpar
