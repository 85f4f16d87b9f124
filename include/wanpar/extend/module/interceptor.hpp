#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/module/attention.hpp>
#include <wanpar/module/annotations.hpp>

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace c10 {
class OperatorHandle;
struct IValue;
}  // namespace c10

namespace wanpar {

/// One call of an operator, above autograd and autocast. A handler may go on with a copy that has other
/// inputs, or is computed by something else.
struct Operator {
  const std::string& name;  ///< "aten::bmm"
  const c10::OperatorHandle& handle;
  std::span<const c10::IValue> arguments;  ///< as the module gave them, by the operator's schema
  Tensors inputs;                          ///< the tensors among them, those in lists too
  std::function<Tensors(const Tensors& inputs)> compute;  ///< gives the tensors of its result
};

/// What takes part in a forward. A strategy implements those of the interfaces below that it needs, and may
/// look for another one by innermost().
class Handler {
 public:
  virtual ~Handler() = default;
};

/// Meets the operators that a module calls. Inside of `around` operators are ordinary: nothing is
/// intercepted.
class OperatorHandler : public virtual Handler {
 public:
  using Next = std::function<Tensors(const Operator&)>;
  /// Takes the place of an operator, by the tensors of its result, or refuses it by an Error. `next` goes on:
  /// to the handlers inside of this one, and at last to `compute`. What a handler wants to compute itself it
  /// puts there, so that the others see the operator all the same.
  virtual Tensors around(const Operator& op, const Next& next) = 0;

  /// The names of those that it is for ("aten::addmm"); it meets no others. Left empty, it meets all. Asked
  /// once, when its scope begins, which throws Error for a name that no operator has. Where a strategy's
  /// forward has called none of them, that is an Error as well: it would have changed nothing, silently.
  virtual std::vector<std::string> operators() const { return {}; }

  /// Whether it wants to meet all operators: asked when its scope begins, and then at each of them. One that
  /// has nothing to do but at attentions when its scope begins meets those alone, and all others run at
  /// native speed.
  virtual bool intercepts_operators() const { return true; }
};

/// Takes the place of the loop over a module's blocks. Of several the innermost is asked first.
class BlocksHandler : public virtual Handler {
 public:
  using NextBlocks = std::function<at::Tensor(const BlockStack&, at::Tensor x, Tensors side)>;
  /// What the blocks give; undefined where what comes after them is another rank's. `next` is the handler
  /// around this one, and at last the loop itself.
  virtual at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, Tensors side,
                                const NextBlocks& next) = 0;
};

/// Splits tokens over ranks: is told where a module says that they begin and end.
class TokenHandler : public virtual Handler {
 public:
  virtual at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions,
                                    const std::optional<TokenGrid>& grid) = 0;
  virtual at::Tensor gather_sequence(at::Tensor x, int64_t dim) = 0;
  /// Collective. x as one rank would have it.
  virtual at::Tensor unshard(at::Tensor x) = 0;
};

/// Keeps something about tensors: is told where one replaces another without an operator.
class SubstitutionHandler : public virtual Handler {
 public:
  /// `replacement`, which was received, cut or cast out of sight, goes on in the place of `original`.
  virtual void on_substitute(const at::Tensor& original, const at::Tensor& replacement) = 0;
};

/// To be called in a backward, with the tensors that stand for the inputs of a part of the forward: while
/// what it returns lives, that part may run once more.
using RecomputeScope = std::function<std::shared_ptr<void>(std::span<const at::Tensor> inputs)>;

/// Takes part where a backward runs a part of the forward once more, long after its scope has ended.
class RecomputableHandler : public virtual Handler {
 public:
  virtual RecomputeScope recompute_scope(std::span<const at::Tensor> inputs) = 0;
};

/// Registers with LibTorch's dispatcher, once for the process, which the first wrapper does by itself: to be
/// called before where other threads run operators by then. Throws Error where another library, or a second
/// copy of this one, holds that place.
void initialize();

/// While it lives, the handler takes part in what this thread does. Scopes nest. Throws Error like
/// initialize(), and where the handler is for an operator that there is none of.
class Scope {
 public:
  explicit Scope(Handler& handler);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  /// To be called in a catch block around the module: throws on the Error that a handler threw, where a layer
  /// between (the interpreter of TorchScript) has made something else of it.
  [[noreturn]] static void rethrow();

 private:
  struct Guard;
  std::unique_ptr<Guard> guard_;
};

/// The handlers of this thread, outermost first.
std::span<Handler* const> handlers();

/// The innermost handler of this thread that is a T; null where there is none.
template <class T>
T* innermost() {
  auto all = handlers();
  for (auto handler = all.rbegin(); handler != all.rend(); ++handler)
    if (auto* found = dynamic_cast<T*>(*handler)) return found;
  return nullptr;
}

/// Operators are ordinary while it lives: for what a strategy does outside of `around`.
class NoInterceptGuard {
 public:
  NoInterceptGuard();
  ~NoInterceptGuard();
  NoInterceptGuard(const NoInterceptGuard&) = delete;
  NoInterceptGuard& operator=(const NoInterceptGuard&) = delete;

 private:
  bool was_excluded_;
};

/// An operator as the attention that it is; none for any other operator. Autocast has been done.
std::optional<Attention> as_attention(const Operator& op);

/// The same operator, called with other numbers; its tensors are those that it is computed with.
Operator with_arguments(const Operator& op, std::vector<c10::IValue> arguments);

/// The same operator on other tensors.
Operator with_inputs(const Operator& op, Tensors inputs);

/// The same operator, whose own operators are met as well: for one of LibTorch's that is made of others.
Operator opened(const Operator& op);

/// And an attention as an operator, with the arguments that are to live as long.
std::vector<c10::IValue> arguments_of(const Attention& call);
Operator as_operator(const Attention& call, std::span<const c10::IValue> arguments);

/// The attention by LibTorch's operator.
at::Tensor attend(const Attention& call);

/// Collective. x as one rank would have it: each handler of this thread gathers what it has split. So is a
/// split tensor that was kept from a forward which has ended.
at::Tensor unshard(at::Tensor x);

/// The replacement, with which the forward goes on in the place of the original, for all handlers to know.
at::Tensor substitute(const at::Tensor& original, at::Tensor replacement);

/// The reentry of all handlers of this thread together, in the thread's state as it is now (autocast).
RecomputeScope recompute_scope(std::span<const at::Tensor> inputs);

}  // namespace wanpar
