#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/attention.hpp>

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace c10 {
class OperatorHandle;
struct IValue;
}  // namespace c10

namespace wanpar {

/// An operator as it passes by, above autograd and autocast.
struct Operator {
  const std::string& name;       ///< "aten::bmm"
  std::span<at::Tensor> inputs;  ///< the tensors among its arguments, those in lists too
  const std::vector<c10::IValue>& arguments;
  const c10::OperatorHandle& handle;
};

/// To be called in a backward, with the tensors that stand for the inputs of a part of the forward: while
/// what it returns lives, that part may run once more.
using Reentry = std::function<std::shared_ptr<void>(std::span<const at::Tensor> inputs)>;

/// What a strategy does with the operators of a module that knows nothing of it. By itself it passes all of
/// them on.
///
/// Inside each of these functions operators are ordinary again: nothing is intercepted there.
class Handler {
 public:
  virtual ~Handler() = default;

  /// The strategy that it belongs to, for those that cannot work inside it.
  virtual std::string_view strategy() const { return {}; }

  using NextAttention = std::function<at::Tensor(const Attention&)>;
  /// Takes the place of an attention; `next` is the handler below, and at last the operator itself.
  virtual at::Tensor attention(const Attention& call, const NextAttention& next) { return next(call); }

  /// Whether it is to be told of operators: asked when its scope begins, and then at each of them. One that
  /// has nothing to learn when its scope begins is told of attention only, and leaves operators to LibTorch.
  virtual bool watches() const { return true; }

  /// Is told of every operator, before and after; may refuse it by an Error, or put other inputs in the place
  /// of those it has.
  virtual void before(const Operator&) {}
  virtual void after(const Operator&, std::span<const at::Tensor> /*outputs*/) {}

  using NextOperator = std::function<at::Tensor(std::vector<at::Tensor> inputs)>;
  /// Takes the place of an operator that gives one tensor, by what it gives; `next` is the operator itself,
  /// on other inputs. None where it leaves the operator alone. Asked of those that watch, the innermost
  /// first.
  virtual std::optional<at::Tensor> instead(const Operator&, const NextOperator& /*next*/) { return {}; }

  /// Is told where a module says that its tokens begin and end.
  virtual at::Tensor split_sequence(at::Tensor x, int64_t /*dim*/, std::initializer_list<Companion>) {
    return x;
  }
  virtual at::Tensor gather_sequence(at::Tensor x, int64_t /*dim*/) { return x; }

  /// Collective. x as one rank would have it, where this strategy has split it.
  virtual at::Tensor whole(at::Tensor x) { return x; }

  /// Is told that x, which no operator of this rank made, goes on where `like` stood.
  virtual void goes_on(const at::Tensor& /*x*/, const at::Tensor& /*like*/) {}

  using NextBlocks = std::function<at::Tensor(const BlockStack&, at::Tensor x, std::vector<at::Tensor> side)>;
  /// Takes the place of a loop over blocks; `next` is the handler below, and at last the loop itself.
  virtual at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side,
                                const NextBlocks& next) {
    return next(blocks, std::move(x), std::move(side));
  }

  /// What lets a backward run a part of this forward once more within this handler, long after its scope has
  /// ended. None where the handler has nothing to do there.
  virtual Reentry reentry(std::span<const at::Tensor> /*inputs*/) { return {}; }
};

/// The same for all handlers of this thread together, in the thread's state as it is now (autocast).
Reentry reentry(std::span<const at::Tensor> inputs);

/// Collective. x as one rank would have it: each strategy of this thread joins what it has split.
at::Tensor whole(at::Tensor x);

/// x, which has come from another rank, for all handlers to take for what `like` is to them.
at::Tensor in_place_of(const at::Tensor& like, at::Tensor x);

/// Operators are ordinary while it lives: for what a strategy does outside its handler, in a backward.
class Plain {
 public:
  Plain();
  ~Plain();
  Plain(const Plain&) = delete;
  Plain& operator=(const Plain&) = delete;

 private:
  bool was_excluded_;
};

/// While it lives, the operators that this thread calls pass by the handler. Scopes nest: the innermost
/// handler is the first to be asked. The first one of a process registers with LibTorch's dispatcher, and
/// throws Error where another library, or a second copy of this one, holds that place.
class Scope {
 public:
  explicit Scope(Handler& handler);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  /// To be called in a catch block around the module: throws on what a handler threw, where a layer between
  /// (the interpreter of TorchScript) has made something else of it.
  [[noreturn]] static void rethrow();

 private:
  struct Guard;
  std::unique_ptr<Guard> guard_;
};

/// Whether this thread is in a scope of that strategy's handler.
bool within(std::string_view strategy);

}  // namespace wanpar
