#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace wanpar {

struct NamedTensor {
  std::string name;  ///< "blocks.3.attn.weight"
  at::Tensor tensor;
};

using NamedTensors = std::vector<NamedTensor>;

namespace detail {

// torch::nn lists items with key() and value(), TorchScript and this library items with a name.
template <class List>
NamedTensors listed(List&& list) {
  NamedTensors tensors;
  for (auto&& item : list) {
    if constexpr (requires { item.key(); })
      tensors.push_back({item.key(), item.value()});
    else if constexpr (requires { item.tensor; })
      tensors.push_back({item.name, item.tensor});
    else
      tensors.push_back({item.name, item.value});
  }
  return tensors;
}

}  // namespace detail

/// The parameters of a module of any kind that can be wrapped, by their full names, in its own order; none
/// of a mere callable.
template <class M>
NamedTensors named_parameters(M& module) {
  if constexpr (requires { module->named_parameters(); })
    return detail::listed(module->named_parameters());
  else if constexpr (requires { module.named_parameters(); })
    return detail::listed(module.named_parameters());
  else
    return {};
}

/// Likewise its buffers.
template <class M>
NamedTensors named_buffers(M& module) {
  if constexpr (requires { module->named_buffers(); })
    return detail::listed(module->named_buffers());
  else if constexpr (requires { module.named_buffers(); })
    return detail::listed(module.named_buffers());
  else
    return {};
}

/// Both, the parameters first.
template <class M>
NamedTensors tensors_of(M& module) {
  auto tensors = named_parameters(module);
  for (auto& buffer : named_buffers(module)) tensors.push_back(std::move(buffer));
  return tensors;
}

}  // namespace wanpar
