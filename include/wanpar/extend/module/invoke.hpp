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

/// Runs forward of a TorchScript module by its operators as they stand in it, each for itself, where a
/// strategy takes part. The optimised
/// plans of its executor fuse operators and have a backward of their own, and strategies would see neither.
c10::IValue run_as_written(const torch::jit::Module& module, std::vector<c10::IValue> inputs);

namespace detail {

/// The tensor that a TorchScript module gave. Throws Error where it gave something else.
at::Tensor tensor_of(const c10::IValue& result);

template <class... Args>
inline constexpr bool kIsIValueList = sizeof...(Args) == 1 &&
                                      (std::is_same_v<std::remove_cvref_t<Args>, std::vector<c10::IValue>> &&
                                       ...);

}  // namespace detail

template <class M>
concept ScriptModule = std::is_same_v<std::remove_cv_t<M>, torch::jit::Module>;

/// A ModuleHolder or shared_ptr. Its own operator() must not be asked whether it takes some arguments: a
/// ModuleHolder does not compile where it does not.
template <class M>
concept Held = requires(M m) {
  m.operator->();
};

/// What can be wrapped: a ModuleHolder or shared_ptr of a module, a TorchScript module, or anything that can
/// be called.
template <class M, class... Args>
concept Invocable = ScriptModule<M> ||
                    (Held<M>&& requires(M m, Args&&... args) { m->forward(std::forward<Args>(args)...); }) ||
                    (!Held<M> && !ScriptModule<M> &&
                     requires(M m, Args&&... args) { m(std::forward<Args>(args)...); });

/// Calls a module, whatever kind it is. A TorchScript module that is given arguments gives a tensor; one that
/// is given a list of IValues gives an IValue, as its own forward does.
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
