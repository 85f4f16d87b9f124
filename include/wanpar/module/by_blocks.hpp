#pragma once
#include <wanpar/module/annotations.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace torch::jit {
struct Module;
}

namespace wanpar {

/// A module that chains submodules and exposes them, such as torch::nn::Sequential.
template <class M>
concept ChainOfModules = requires(M m, at::Tensor x) {
  m->size();
  {m->begin()->forward(x)};
  m->begin()->ptr();
};

/// A module that can be run block by block with these arguments; a chain takes exactly one tensor.
template <class M, class... Args>
concept RunsByBlocks = Invocable<M, Args...> &&
    (!ChainOfModules<M> || (sizeof...(Args) == 1 && (std::convertible_to<Args, at::Tensor> && ...)));

/// The input of the blocks, as StackOf's `before` may return it.
struct Staged {
  at::Tensor x;
  std::vector<at::Tensor> side = {};  ///< what every block gets besides x
};

/// A module made of three callables: `before(args...)` returns x or a Staged; `block(i, x, side)` applies one
/// block; `after(x)` returns the result. Training in a pipeline also needs each block's parameters
/// (`tensors`).
///
///     auto model = wanpar::stack_of(embed, 12, [&](int64_t i, at::Tensor x, auto& side) { … }, head,
///                                   [&](int64_t i) { return wanpar::tensors_of(blocks[i]); });
template <class Before, class Block, class After>
class StackOf {
 public:
  StackOf(Before before, int64_t blocks, Block block, After after,
          std::function<NamedTensors(int64_t)> tensors)
      : before_(std::move(before)),
        after_(std::move(after)),
        stack_{blocks, std::move(block), std::move(tensors)} {}

  template <class... Args>
  requires Invocable<Before, Args...>
  auto operator()(Args&&... args) {
    auto staged = as_staged(invoke(before_, std::forward<Args>(args)...));
    return run_blocks(stack_, std::move(staged.x), std::move(staged.side),
                      [this](at::Tensor y) { return invoke(after_, std::move(y)); });
  }

  /// "before.weight" (if `before` is a module), "0.weight", "1.weight", … (if `tensors` was given), then
  /// "after.weight" (if `after` is a module).
  NamedTensors named_parameters() const {
    auto all = under("before.", module_parameters(before_));
    for (int64_t i = 0; stack_.tensors && i < stack_.size; ++i)
      append(all, under(std::to_string(i) + ".", stack_.tensors(i)));
    append(all, under("after.", module_parameters(after_)));
    return all;
  }
  NamedTensors named_buffers() const {
    auto all = under("before.", wanpar::named_buffers(before_));
    append(all, under("after.", wanpar::named_buffers(after_)));
    return all;
  }

 private:
  static NamedTensors under(const std::string& prefix, NamedTensors tensors) {
    for (auto& item : tensors) item.name = prefix + item.name;
    return tensors;
  }
  static void append(NamedTensors& all, NamedTensors more) {
    all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }

  static Staged as_staged(Staged staged) { return staged; }
  static Staged as_staged(at::Tensor x) { return {std::move(x)}; }

  Before before_;
  After after_;
  BlockStack stack_;
};

template <class Before, class Block, class After>
auto stack_of(Before before, int64_t blocks, Block block, After after,
              std::function<NamedTensors(int64_t index)> tensors = {}) {
  return StackOf<Before, Block, After>(std::move(before), blocks, std::move(block), std::move(after),
                                       std::move(tensors));
}

/// A TorchScript module split at its blocks: the longest run of submodules of one parent that forward calls
/// one after the other, each on the previous result, with otherwise equal arguments.
class ScriptStack {
 public:
  /// Throws Error if the module has no such run, like a trace without submodules or a frozen module.
  explicit ScriptStack(const torch::jit::Module& module);

  int64_t size() const;
  /// Forward, with the blocks run by run_blocks.
  c10::IValue forward(std::vector<c10::IValue> inputs) const;

 private:
  struct Parts;
  std::shared_ptr<const Parts> parts_;
};

/// Runs a module of any kind so that its blocks go through run_blocks: TorchScript by its submodules,
/// torch::nn::Sequential by its elements, any other module by its own calls of run_blocks.
template <class Module>
class ByBlocks {
 public:
  explicit ByBlocks(Module& module) requires ScriptModule<Module> : script_(module) {}
  explicit ByBlocks(Module&) {}

  template <class... Args>
  requires RunsByBlocks<Module, Args...>
  auto operator()(Module& module, Args&&... args) const {
    if constexpr (ScriptModule<Module>)
      return run_script(std::forward<Args>(args)...);
    else if constexpr (ChainOfModules<Module>)
      return run_chain(module, std::forward<Args>(args)...);
    else
      return invoke(module, std::forward<Args>(args)...);
  }

 private:
  template <class... Args>
  auto run_script(Args&&... args) const {
    if constexpr (detail::kIsIValueList<Args...>)
      return script_.forward(std::forward<Args>(args)...);
    else
      return detail::tensor_of(script_.forward({std::forward<Args>(args)...}));
  }

  static at::Tensor run_chain(Module& module, at::Tensor x) {
    auto at = [&module](int64_t index) -> auto& { return *(module->begin() + index); };
    return run_blocks(
        BlockStack{static_cast<int64_t>(module->size()),
                   [at](int64_t index, at::Tensor x, const std::vector<at::Tensor>&) -> at::Tensor {
                     return at(index).forward(std::move(x));
                   },
                   [at](int64_t index) {
                     auto block = at(index).ptr();
                     return tensors_of(block);
                   }},
        std::move(x), {}, [](at::Tensor y) { return y; });
  }

  struct Nothing {};
  [[no_unique_address]] std::conditional_t<ScriptModule<Module>, ScriptStack, Nothing> script_;
};

/// Calls the module directly.
template <class Module>
class AsItStands {
 public:
  AsItStands() = default;
  explicit AsItStands(Module&) {}

  template <class... Args>
  requires Invocable<Module, Args...>
  auto operator()(Module& module, Args&&... args) const {
    return invoke(module, std::forward<Args>(args)...);
  }
};

/// How a strategy runs a module: block by block if `Strategy::kByBlocks`, directly otherwise.
template <class Strategy, class Module>
using RunnerOf = std::conditional_t<Strategy::kByBlocks, ByBlocks<Module>, AsItStands<Module>>;
template <class Strategy, class Module, class... Args>
concept RunsWith = (Strategy::kByBlocks && RunsByBlocks<Module, Args...>) ||
                   (!Strategy::kByBlocks && Invocable<Module, Args...>);

}  // namespace wanpar
