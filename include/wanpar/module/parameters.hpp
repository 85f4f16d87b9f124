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

/// Where the values of a parameter lie, and over which ranks a backward averages its gradient.
struct Placement {
  std::vector<Communicator> sharded_over = {};  ///< each of these ranks holds a part
  std::vector<Communicator> reduced_over = {};
};

/// Which elements of a parameter a shard is: as many as it has, from `begin` on, in the order in which the
/// whole parameter, of these sizes and strides, lies in memory.
struct ShardMetadata {
  std::vector<int64_t> sizes, strides;
  int64_t begin;
};

/// A tensor of a module; `auto& [name, tensor]` takes it apart.
struct NamedTensor {
  std::string name;  ///< "blocks.3.attn.weight"
  at::Tensor tensor;
  std::shared_ptr<const Placement> placement = {};  ///< null: whole on this rank, and of this rank alone
  std::shared_ptr<const ShardMetadata> shard = {};  ///< null: the tensor is not a shard

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

// torch::nn lists items with key() and value(), TorchScript and this library items with a name.
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

/// The same, but of a wrapped module the tensors of the module itself, and where they lie.
template <class M>
NamedTensors module_parameters(M& module) {
  if constexpr (requires { module.module_parameters(); })
    return module.module_parameters();
  else
    return named_parameters(module);
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

/// The tensors alone, each once.
std::vector<at::Tensor> tensors_in(const NamedTensors& tensors);

/// Zeros, or nothing, in the place of their gradients.
void clear_gradients(const std::vector<at::Tensor>& parameters, bool set_to_none);

/// What a strategy is told of the module that it is put around.
struct ModuleTensors {
  NamedTensors parameters, buffers;
};
template <class M>
ModuleTensors tensors_by_kind(M& module) {
  return {module_parameters(module), named_buffers(module)};
}

/// Both, the parameters first.
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
