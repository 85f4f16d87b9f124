#pragma once
#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace c10 {
struct IValue;
}

namespace torch::jit {
struct Module;
}

namespace wanpar {

/// Runs forward of a TorchScript module by its operators as they stand in it, each for itself. The optimised
/// plans of its executor fuse operators and have a backward of their own, and strategies would see neither.
at::Tensor run_as_written(const torch::jit::Module& module, std::vector<c10::IValue> inputs);

/// A TorchScript module: its forward takes and gives IValues.
template <class M>
concept ScriptModule = requires(M m, std::vector<c10::IValue> inputs) {
  m.forward(std::move(inputs)).toTensor();
};

/// A ModuleHolder or shared_ptr. Its own operator() must not be asked whether it takes some arguments: a
/// ModuleHolder does not compile where it does not.
template <class M>
concept Held = requires(M m) {
  m.operator->();
};

/// What can be wrapped: a ModuleHolder or shared_ptr of a module, a TorchScript module, or anything that can
/// be called.
template <class M, class... Args>
concept Invocable = ScriptModule<M> ||(Held<M>&& requires(M m, Args... args) { m->forward(args...); }) ||
                    (!Held<M> && requires(M m, Args... args) { m(args...); });

/// Calls a module, whatever kind it is. A TorchScript module gives a tensor.
template <class M, class... Args>
requires Invocable<M, Args...>
auto invoke(M& module, Args&&... args) {
  if constexpr (ScriptModule<M>)
    return run_as_written(module, {std::forward<Args>(args)...});
  else if constexpr (Held<M>)
    return module->forward(std::forward<Args>(args)...);
  else
    return module(std::forward<Args>(args)...);
}

}  // namespace wanpar
