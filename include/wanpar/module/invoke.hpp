#pragma once
#include <utility>
#include <vector>

namespace c10 {
struct IValue;
}

namespace wanpar {

/// A TorchScript module: its forward takes and gives IValues.
template <class M>
concept ScriptModule = requires(M m, std::vector<c10::IValue> inputs) {
  m.forward(std::move(inputs)).toTensor();
};

/// What can be wrapped: a ModuleHolder or shared_ptr of a module, a TorchScript module, or anything that can
/// be called.
template <class M, class... Args>
concept Invocable = ScriptModule<M> || requires(M m, Args... args) {
  m->forward(args...);
} || requires(M m, Args... args) {
  m(args...);
};

/// Calls a module, whatever kind it is. A TorchScript module gives a tensor.
template <class M, class... Args>
requires Invocable<M, Args...>
auto invoke(M& module, Args&&... args) {
  if constexpr (ScriptModule<M>)
    return module.forward({std::forward<Args>(args)...}).toTensor();
  else if constexpr (requires { module->forward(std::forward<Args>(args)...); })
    return module->forward(std::forward<Args>(args)...);
  else
    return module(std::forward<Args>(args)...);
}

}  // namespace wanpar
