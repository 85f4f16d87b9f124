#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace wanpar {

using Tensors = std::vector<at::Tensor>;

/// How a parameter is distributed: the groups it is sharded over, and the groups its gradient is averaged
/// over.
struct Placement {
  std::vector<Communicator> sharded_over = {};  ///< each rank of these groups holds a shard
  std::vector<Communicator> reduced_over = {};  ///< backward averages the gradient over these groups
};

/// Which elements of a parameter a shard holds: a contiguous run that starts at element `begin` of the
/// unsharded parameter, counted in memory order; `sizes` and `strides` are those of the unsharded parameter.
struct ShardMetadata {
  std::vector<int64_t> sizes, strides;
  int64_t begin;
};

/// A named tensor of a module. Supports structured bindings: `auto& [name, tensor]`.
struct NamedTensor {
  std::string name;  ///< "blocks.3.attn.weight"
  at::Tensor tensor;
  std::shared_ptr<const Placement> placement = {};  ///< null: unsharded, and not reduced with other ranks
  std::shared_ptr<const ShardMetadata> shard = {};  ///< null: the tensor is unsharded

  template <size_t I, class Self>
  requires std::same_as<std::remove_cvref_t<Self>, NamedTensor>
  friend decltype(auto) get(Self&& self) {
    if constexpr (I == 0)
      return (std::forward<Self>(self).name);
    else
      return (std::forward<Self>(self).tensor);
  }
};

using NamedTensors = std::vector<NamedTensor>;

namespace detail {

// torch::nn lists items with key() and value(); TorchScript and this library list items with a name.
template <class List>
NamedTensors listed(List&& list) {
  NamedTensors tensors;
  for (auto&& item : list) {
    if constexpr (requires { item.key(); })
      tensors.push_back({item.key(), item.value()});
    else if constexpr (requires { item.tensor; })
      tensors.push_back(item);
    else
      tensors.push_back({item.name, item.value});
  }
  return tensors;
}

}  // namespace detail

/// The parameters of any wrappable module, by full name, in the module's own order; empty for a plain
/// callable.
template <class M>
NamedTensors named_parameters(M& module) {
  if constexpr (requires { module->named_parameters(); })
    return detail::listed(module->named_parameters());
  else if constexpr (requires { module.named_parameters(); })
    return detail::listed(module.named_parameters());
  else
    return {};
}

/// As named_parameters, but for a wrapped module: the tensors of the module itself, with their placement.
template <class M>
NamedTensors module_parameters(M& module) {
  if constexpr (requires { module.module_parameters(); })
    return module.module_parameters();
  else
    return named_parameters(module);
}

/// The buffers of any wrappable module.
template <class M>
NamedTensors named_buffers(M& module) {
  if constexpr (requires { module->named_buffers(); })
    return detail::listed(module->named_buffers());
  else if constexpr (requires { module.named_buffers(); })
    return detail::listed(module.named_buffers());
  else
    return {};
}

/// The tensors without their names, each tensor once.
std::vector<at::Tensor> tensors_in(const NamedTensors& tensors);

/// Resets the gradients of `parameters` if `set_to_none`, zeros them otherwise.
void clear_gradients(const std::vector<at::Tensor>& parameters, bool set_to_none);

/// The parameters and buffers of the module that a strategy wraps.
struct ModuleTensors {
  NamedTensors parameters, buffers;
};
template <class M>
ModuleTensors tensors_by_kind(M& module) {
  return {module_parameters(module), named_buffers(module)};
}

/// The parameters, then the buffers.
template <class M>
NamedTensors tensors_of(M& module) {
  auto tensors = module_parameters(module);
  for (auto& buffer : named_buffers(module)) tensors.push_back(std::move(buffer));
  return tensors;
}

}  // namespace wanpar

template <>
struct std::tuple_size<wanpar::NamedTensor> : std::integral_constant<size_t, 2> {};
template <>
struct std::tuple_element<0, wanpar::NamedTensor> {
  using type = std::string;
};
template <>
struct std::tuple_element<1, wanpar::NamedTensor> {
  using type = at::Tensor;
};
