#pragma once
#include <wanpar/core/error.hpp>
#include <wanpar/module/invoke.hpp>
#include <wanpar/module/parameters.hpp>

#include <concepts>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace wanpar {

namespace detail {

constexpr size_t kMostArguments = 8;

/// A callable that takes the list itself, unless it takes anything, as what is around a
/// torch::nn::Sequential. A ModuleHolder must not be asked: it fails where it cannot be called.
template <class M>
concept TakesList =
    !Held<M> && !Invocable<M, at::Tensor> && std::is_invocable_r_v<at::Tensor, M&, std::vector<at::Tensor>>;

template <size_t>
using TensorOf = at::Tensor;

/// Calls module(a[0], a[1], …) where it takes exactly so many tensors; false where it does not.
template <class M, size_t... I>
bool try_call(M& module, std::vector<at::Tensor>& a, at::Tensor& result, std::index_sequence<I...>) {
  if (a.size() != sizeof...(I)) return false;
  if constexpr (Invocable<M, TensorOf<I>...>) {
    result = invoke(module, std::move(a[I])...);
    return true;
  }
  return false;
}

template <class M, size_t... N>
at::Tensor call_with(M& module, std::vector<at::Tensor> arguments, std::index_sequence<N...>) {
  at::Tensor result;
  bool called = (try_call(module, arguments, result, std::make_index_sequence<N + 1>{}) || ...);
  if (!called)
    throw Error("Model: the module cannot be called with " + std::to_string(arguments.size()) + " tensors");
  return result;
}

}  // namespace detail

/// A module whose type is known at run time only: tensors in, one tensor out, and its parameters.
///
/// It stands wherever a module may, so that strategies can be chosen while the program runs:
///
///     wanpar::Model model(transformer);
///     if (sharded) model = model | wanpar::sharded_params({.group = world});
///
/// A cheap value; copies share the module. An undefined tensor stands for an argument left out.
class Model {
 public:
  using Tensors = std::vector<at::Tensor>;

  template <class Module>
  requires(!std::same_as<std::remove_cvref_t<Module>, Model>) explicit(false) Model(Module module)
      : held_(std::make_shared<Held<Module>>(std::move(module))) {}

  /// Throws Error when the module cannot be called with that many tensors.
  at::Tensor call(Tensors arguments) { return held_->call(std::move(arguments)); }

  template <class... Arguments>
  requires(std::convertible_to<Arguments, at::Tensor>&&...) at::Tensor operator()(Arguments&&... arguments) {
    return call({at::Tensor(std::forward<Arguments>(arguments))...});
  }

  NamedTensors named_parameters() const { return held_->named_parameters(); }
  NamedTensors named_buffers() const { return held_->named_buffers(); }

 private:
  struct Any {
    virtual ~Any() = default;
    virtual at::Tensor call(Tensors arguments) = 0;
    virtual NamedTensors named_parameters() = 0;
    virtual NamedTensors named_buffers() = 0;
  };

  template <class Module>
  struct Held : Any {
    explicit Held(Module m) : module(std::move(m)) {}
    at::Tensor call(Tensors arguments) override {
      if constexpr (detail::TakesList<Module>)
        return module(std::move(arguments));
      else
        return detail::call_with(module, std::move(arguments),
                                 std::make_index_sequence<detail::kMostArguments>{});
    }
    NamedTensors named_parameters() override { return wanpar::named_parameters(module); }
    NamedTensors named_buffers() override { return wanpar::named_buffers(module); }
    Module module;
  };

  std::shared_ptr<Any> held_;
};

}  // namespace wanpar
