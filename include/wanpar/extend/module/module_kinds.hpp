#pragma once
#include <wanpar/extend/module/invoke.hpp>

#include <concepts>
#include <optional>
#include <type_traits>
#include <utility>

// The kinds of modules that can be wrapped, and what they support besides being called.
namespace wanpar {
namespace detail {

struct CallFallback {
  void operator()();
};
template <class M>
struct CallProbe : M, CallFallback {};
template <class M>
concept HasOneCallOperator = requires {
  &CallProbe<M>::operator();
};

/// Whether a type is callable: a function, or a class with a call operator, which may be a template.
template <class M>
constexpr bool is_callable() {
  if constexpr (std::is_pointer_v<M> || std::is_function_v<M>)
    return std::is_function_v<std::remove_pointer_t<M>>;
  else if constexpr (
      requires { M::kIsModule; } || requires { &M::operator(); })
    return true;
  else if constexpr (std::is_class_v<M> && !std::is_final_v<M>)
    return !HasOneCallOperator<M>;  // not ambiguous: only the fallback has one
  else
    return std::is_class_v<M>;
}

template <class M>
constexpr bool is_held_module() {
  if constexpr (Held<M>) {
    using Inner = std::remove_pointer_t<decltype(std::declval<M&>().operator->())>;
    return requires { &Inner::forward; }
    || requires(Inner & inner) { inner.named_parameters(); };
  }
  return false;
}

}  // namespace detail

/// The left operand of |: a ModuleHolder or shared_ptr of a module, a TorchScript module, or any callable.
template <class M>
concept Wrappable = ScriptModule<M> || detail::is_held_module<M>() || detail::is_callable<M>();

/// The module itself, dereferenced if it is held by a ModuleHolder or shared_ptr.
template <class M>
decltype(auto) module_of(M& module) {
  if constexpr (Held<M>)
    return *module.operator->();
  else
    return (module);
}

/// A module with a training mode.
template <class M>
concept HasMode = requires(M& module) {
  module_of(module).train(true);
  module_of(module).is_training();
};

/// Whether a module is training; nullopt if it has no training mode.
template <class M>
std::optional<bool> mode_of(M& module) {
  if constexpr (requires {
                  { module.training_mode() } -> std::same_as<std::optional<bool>>;
                })
    return module.training_mode();
  else if constexpr (HasMode<M>)
    return module_of(module).is_training();
  else
    return {};
}

template <class M, class... To>
concept HasTo = requires(M& module, To... to) {
  module_of(module).to(to...);
};

}  // namespace wanpar
