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

/// One operator call, intercepted above autograd and autocast. A handler may pass on a copy with other inputs
/// or another `compute`.
struct Operator {
  const std::string& name;  ///< "aten::bmm"
  const c10::OperatorHandle& handle;
  std::span<const c10::IValue> arguments;  ///< as the module passed them, in schema order
  Tensors inputs;                          ///< the tensors among them, including those in lists
  std::function<Tensors(const Tensors& inputs)> compute;  ///< returns the tensors of the result
};

/// A participant in a forward. A strategy implements the handler interfaces below that it needs, and finds
/// other handlers by innermost().
class Handler {
 public:
  virtual ~Handler() = default;
};

/// Intercepts the operators that a module calls. Operators called inside `around` are not intercepted.
class OperatorHandler : public virtual Handler {
 public:
  using Next = std::function<Tensors(const Operator&)>;
  /// Runs instead of an operator and returns the tensors of its result, or throws Error to reject it. `next`
  /// calls the inner handlers and finally `op.compute`. To compute the result itself, a handler replaces
  /// `compute`, so that inner handlers still see the operator.
  virtual Tensors around(const Operator& op, const Next& next) = 0;

  /// Names of the operators to intercept ("aten::addmm"); all if empty. Asked once, on entering the scope,
  /// which throws Error for a name that no operator has. A strategy's forward that called none of them is an
  /// Error as well: it would have changed nothing, silently.
  virtual std::vector<std::string> operators() const { return {}; }

  /// True if all operators must be intercepted; asked on entering the scope and at each operator. If false on
  /// entering the scope, only attention is intercepted and all other operators run at native speed.
  virtual bool intercepts_operators() const { return true; }
};

/// Replaces the loop over a module's blocks. The innermost of several handlers is called first.
class BlocksHandler : public virtual Handler {
 public:
  using NextBlocks = std::function<at::Tensor(const BlockStack&, at::Tensor x, Tensors side)>;
  /// The output of the blocks; undefined if what follows them runs on another rank. `next` calls the
  /// enclosing handlers and finally the loop itself.
  virtual at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, Tensors side,
                                const NextBlocks& next) = 0;
};

/// Splits tokens over ranks, where the module marks their beginning and end.
class TokenHandler : public virtual Handler {
 public:
  virtual at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions,
                                    const std::optional<TokenGrid>& grid) = 0;
  virtual at::Tensor gather_sequence(at::Tensor x, int64_t dim) = 0;
  /// Collective. All-gathers x along its sharded dimension.
  virtual at::Tensor unshard(at::Tensor x) = 0;
};

/// Keeps records about tensors, and is notified when one replaces another without an operator.
class SubstitutionHandler : public virtual Handler {
 public:
  /// Called when `replacement` (received, sliced or cast outside the intercepted graph) replaces `original`.
  /// Records kept for `original` apply to `replacement` from here on.
  virtual void on_substitute(const at::Tensor& original, const at::Tensor& replacement) = 0;
};

/// Re-activates handlers for recomputation in backward (activation checkpointing): call it with the
/// recomputed segment's inputs; the returned guard deactivates them.
using RecomputeScope = std::function<std::shared_ptr<void>(std::span<const at::Tensor> inputs)>;

/// A handler that must be active again when backward recomputes a segment, after its forward scope has ended.
class RecomputableHandler : public virtual Handler {
 public:
  virtual RecomputeScope recompute_scope(std::span<const at::Tensor> inputs) = 0;
};

/// Registers with LibTorch's dispatcher, once per process. The first wrapper does so by itself; call it
/// earlier if other threads run operators by then. Throws Error if another library, or a second copy of this
/// one, is registered under the same dispatch keys.
void initialize();

/// RAII: activates a handler on this thread. Scopes nest. Throws Error like initialize(), and if the handler
/// names an operator that does not exist.
class Scope {
 public:
  explicit Scope(Handler& handler);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  /// Rethrows the handler's original Error if a layer between (TorchScript's interpreter) converted it, the
  /// current exception otherwise. Call it in a catch block around the module.
  [[noreturn]] static void rethrow();

 private:
  struct Guard;
  std::unique_ptr<Guard> guard_;
};

/// The handlers of this thread, outermost first.
std::span<Handler* const> handlers();

/// The innermost handler of this thread that is a T, or null.
template <class T>
T* innermost() {
  auto all = handlers();
  for (auto handler = all.rbegin(); handler != all.rend(); ++handler)
    if (auto* found = dynamic_cast<T*>(*handler)) return found;
  return nullptr;
}

/// RAII: disables interception on this thread (cf. at::NoGradGuard). For operators that a strategy calls
/// outside `around`.
class NoInterceptGuard {
 public:
  NoInterceptGuard();
  ~NoInterceptGuard();
  NoInterceptGuard(const NoInterceptGuard&) = delete;
  NoInterceptGuard& operator=(const NoInterceptGuard&) = delete;

 private:
  bool was_excluded_;
};

/// The attention that an operator computes, after autocast; nullopt for any other operator.
std::optional<Attention> as_attention(const Operator& op);

/// The same operator with other arguments. Their tensors are replaced by the inputs that it is computed with.
Operator with_arguments(const Operator& op, std::vector<c10::IValue> arguments);

/// The same operator with other input tensors.
Operator with_inputs(const Operator& op, Tensors inputs);

/// The same operator, decomposed: for a composite operator, the operators that it calls are intercepted too.
Operator opened(const Operator& op);

/// An attention as an operator; `arguments` must outlive it.
std::vector<c10::IValue> arguments_of(const Attention& call);
Operator as_operator(const Attention& call, std::span<const c10::IValue> arguments);

/// Computes the attention by LibTorch's operator.
at::Tensor attend(const Attention& call);

/// Collective. The unsharded x: each token handler of this thread gathers what it has sharded. Also unshards
/// a split tensor that outlived its forward.
at::Tensor unshard(at::Tensor x);

/// Notifies all handlers that `replacement` replaces `original`, and returns `replacement`.
at::Tensor substitute(const at::Tensor& original, at::Tensor replacement);

/// The RecomputeScope of all handlers of this thread, which also restores the thread's current state
/// (autocast).
RecomputeScope recompute_scope(std::span<const at::Tensor> inputs);

}  // namespace wanpar
