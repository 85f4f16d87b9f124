#pragma once
#include <ATen/core/Tensor.h>

#include <type_traits>
#include <utility>
#include <vector>

namespace c10 {
struct IValue;
}

namespace torch::jit {
struct Module;
}

namespace wanpar {

/// Runs forward of a TorchScript module operator by operator, without graph optimization, if a strategy is
/// active. The executor's optimized plans fuse operators and bring their own backward, which strategies could
/// not intercept.
c10::IValue run_as_written(const torch::jit::Module& module, std::vector<c10::IValue> inputs);

namespace detail {

/// The tensor that a TorchScript module returned. Throws Error if it returned something else.
at::Tensor tensor_of(const c10::IValue& result);

template <class... Args>
inline constexpr bool kIsIValueList = sizeof...(Args) == 1 &&
                                      (std::is_same_v<std::remove_cvref_t<Args>, std::vector<c10::IValue>> &&
                                       ...);

}  // namespace detail

template <class M>
concept ScriptModule = std::is_same_v<std::remove_cv_t<M>, torch::jit::Module>;

/// A ModuleHolder or shared_ptr. Do not test a ModuleHolder's operator() in a requires-expression: with
/// arguments that do not fit it is a hard error.
template <class M>
concept Held = requires(M m) {
  m.operator->();
};

/// A module that can be called with these arguments: a ModuleHolder or shared_ptr of one, a TorchScript
/// module, or any callable.
template <class M, class... Args>
concept Invocable = ScriptModule<M> ||
                    (Held<M>&& requires(M m, Args&&... args) { m->forward(std::forward<Args>(args)...); }) ||
                    (!Held<M> && !ScriptModule<M> &&
                     requires(M m, Args&&... args) { m(std::forward<Args>(args)...); });

/// Calls a module of any kind. A TorchScript module returns a tensor, or an IValue when called with a list of
/// IValues, like its own forward.
template <class M, class... Args>
requires Invocable<M, Args...>
auto invoke(M& module, Args&&... args) {
  if constexpr (!ScriptModule<M>) {
    if constexpr (Held<M>)
      return module->forward(std::forward<Args>(args)...);
    else
      return module(std::forward<Args>(args)...);
  } else if constexpr (detail::kIsIValueList<Args...>) {
    return run_as_written(module, std::forward<Args>(args)...);
  } else {
    return detail::tensor_of(run_as_written(module, {std::forward<Args>(args)...}));
  }
}

}  // namespace wanpar
