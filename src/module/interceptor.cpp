// Operator interception by LibTorch's dispatcher.
#include <wanpar/extend/module/interceptor.hpp>

#include <ATen/ThreadLocalState.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/SmallVector.h>
#include <fmt/format.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>
#include <wanpar/core/error.hpp>

#include "module/absent_memory.hpp"
#include "module/boxed_tensors.hpp"
#include "module/crossing.hpp"
#include "module/dispatch_keys.hpp"
#include "module/shard_tensor.hpp"
#include "module/split/dispatch.hpp"
#include "module/split/split_tensor.hpp"
#include "module/wanted_operators.hpp"

namespace wanpar {
namespace {

constexpr c10::DispatchKeySet kBoth({kAttention, kOperators});

using OperatorHandlers = c10::SmallVector<OperatorHandler*, 4>;

/// The last exception that a handler threw in this thread: TorchScript's interpreter passes on only its text.
struct Thrown {
  std::exception_ptr error;
  std::string message;
};

/// The active handlers of this thread, outermost first. The dispatch key may be active without handlers, in a
/// thread that inherited another's dispatch state: then operators are not intercepted.
struct HandlerStack {
  std::vector<Handler*> all;
  std::vector<WantedOperators> of_operators;  // of the OperatorHandlers among them
  Thrown thrown;
};
thread_local HandlerStack stack;

template <class Action>
auto remembering(const Action& action) {
  try {
    return action();
  } catch (const Error& error) {
    stack.thrown = {std::current_exception(), error.what()};
    throw;
  }
}

/// Autocast is below the key: inputs are cast here, so that handlers communicate the dtype of computation.
/// Casts are not intercepted, so they are reported by substitute().
void cast_as_autocast_would(Attention& call) {
  auto device = call.query.device().type();
  if (!at::autocast::is_autocast_enabled(device) || call.query.scalar_type() == at::kDouble) return;
  auto dtype = at::autocast::get_autocast_dtype(device);
  auto cast = [dtype](at::Tensor& x) { x = substitute(x, x.to(dtype)); };
  cast(call.query), cast(call.key), cast(call.value);
  if (call.mask && call.mask->is_floating_point()) cast(*call.mask);
}

/// The handlers that intercept this operator, outermost first.
OperatorHandlers interceptors_of(const std::string& name, bool is_attention) {
  OperatorHandlers result;
  for (auto& wanted : stack.of_operators) {
    auto& handler = wanted.handler();
    if ((is_attention || handler.intercepts_operators()) && wanted.match(name)) result.push_back(&handler);
  }
  return result;
}

/// Calls the handlers, outermost first, and finally the operator.
Tensors pass(const OperatorHandlers& handlers, const Operator& op, size_t next = 0) {
  if (next == handlers.size()) return op.compute(op.inputs);
  return handlers[next]->around(
      op, [&handlers, next](const Operator& inner) { return pass(handlers, inner, next + 1); });
}

/// Throws Error for an operator below autograd on tensors that require a gradient: what handlers compute
/// would not be part of the graph, and gradients would be lost silently.
void require_autograd(const Operator& op) {
  // torch::zeros_like and similar functions run below autograd, as their results need no graph.
  if (at::GradMode::is_enabled() && !op.name.ends_with("_like") &&
      c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradFunctionality) &&
      std::any_of(op.inputs.begin(), op.inputs.end(), [](auto& x) { return x.requires_grad(); }))
    throw UsageError(fmt::format(
        "{} is called below autograd (at::AutoDispatchBelowAutograd, AutoNonVariableTypeMode) on a "
        "tensor that requires a gradient, which an exchange between ranks would lose; call the "
        "module under at::NoGradGuard or c10::InferenceMode instead",
        op.name));
}

at::Tensor attention_kernel(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const std::optional<at::Tensor>& mask, double dropout, bool causal,
                            std::optional<double> scale, bool grouped) {
  NoInterceptGuard no_intercept;
  Attention call{query, key, value, mask, dropout, causal, scale, grouped};
  if (mask && !mask->defined()) call.mask.reset();
  if (stack.of_operators.empty()) return attend(call);
  cast_as_autocast_would(call);
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto arguments = arguments_of(call);
  const auto op = as_operator(call, arguments);
  const auto handlers = interceptors_of(op.name, true);
  return remembering([&] {
    require_autograd(op);
    return pass(handlers, op)[0];
  });
}

bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), [](auto& x, auto& y) { return x.is_same(y); });
}

/// Calls the kernel with the arguments of a stack, with their tensors replaced.
struct Kernel {
  Tensors operator()(const Tensors& inputs) {
    torch::jit::Stack call(arguments.begin(), arguments.end());
    if (inputs.size() != given.size())
      throw UsageError(fmt::format("{}: a handler went on with {} tensors where the operator takes {}",
                                   op.schema().name(), inputs.size(), given.size()));
    require_memory(op, inputs);
    if (!same(inputs, given)) put_back(inputs, call);
    op.redispatchBoxed(below, &call);
    results = std::move(call);
    return outputs = tensors_among(results);
  }

  const c10::OperatorHandle& op;
  c10::DispatchKeySet below;
  std::span<const c10::IValue> arguments;
  const Tensors& given;
  torch::jit::Stack results = {};  // of the latest call
  Tensors outputs = {};            // the tensors among them
};

[[noreturn]] void refuse_handler(const Operator& op, const std::string& why) {
  throw UsageError(fmt::format("{}: a handler {}", op.name, why));
}

/// Checks a handler's result: the right number of tensors, and for in-place operators the same tensors.
void check_outputs(const Operator& op, const torch::jit::Stack& known, const Tensors& outputs) {
  auto& schema = op.handle.schema();
  auto is_tensor = [](auto& value) { return value.type()->kind() == c10::TypeKind::TensorType; };
  auto& returns = schema.returns();
  bool is_list = returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType;
  auto expected = known.empty()
                      ? static_cast<size_t>(std::count_if(returns.begin(), returns.end(), is_tensor))
                      : tensors_among(known).size();
  if (outputs.size() != expected && !(known.empty() && is_list))
    refuse_handler(op, fmt::format("gave {} tensors where the operator gives {}", outputs.size(), expected));
  if (known.empty() && !is_list && expected != returns.size())
    refuse_handler(op, "took the place of an operator that does not give tensors alone");
  if (!schema.is_mutable()) return;
  for (auto& output : outputs)
    if (std::none_of(op.inputs.begin(), op.inputs.end(), [&](auto& input) { return input.is_same(output); }))
      refuse_handler(op,
                     "put another tensor in the place of one that the operator writes to; write to that one");
}

/// Boxes the results of an operator from their tensors, if no kernel has run.
torch::jit::Stack results_of(const Operator& op, torch::jit::Stack known, const Tensors& were,
                             const Tensors& outputs) {
  if (!known.empty()) {
    if (!same(were, outputs)) put_back(outputs, known);
    return known;
  }
  auto& returns = op.handle.schema().returns();
  if (returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType) return {outputs};
  return {outputs.begin(), outputs.end()};
}

void every_operator(const c10::OperatorHandle& handle, c10::DispatchKeySet keys, torch::jit::Stack* values) {
  NoInterceptGuard no_intercept;
  auto below = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kOperators);
  const auto handlers = interceptors_of(handle.schema().name(), false);
  const auto count = handle.schema().arguments().size();
  const std::span<const c10::IValue> arguments(values->data() + (values->size() - count), count);
  const auto given = tensors_among(arguments);
  if (handlers.empty()) {
    require_memory(handle, given);
    return handle.redispatchBoxed(below, values);
  }
  Kernel kernel{handle, below, arguments, given};
  const Operator op{handle.schema().name(), handle, arguments, given, std::ref(kernel)};
  auto outputs = remembering([&] {
    require_autograd(op);
    auto outputs = pass(handlers, op);
    bool is_the_kernels = !kernel.results.empty() && same(outputs, kernel.outputs);
    if (!is_the_kernels) check_outputs(op, kernel.results, outputs);
    return outputs;
  });
  auto results = results_of(op, std::move(kernel.results), kernel.outputs, outputs);
  torch::jit::drop(*values, count);
  values->insert(values->end(), std::make_move_iterator(results.begin()),
                 std::make_move_iterator(results.end()));
}

void every_operator_on_parts(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::last(*stack, op.schema().arguments().size());
  bool is_split = false;
  look_at_tensors({arguments.data(), arguments.size()},
                  [&](const at::Tensor& x) { is_split |= as_split(x) != nullptr; });
  is_split ? on_split_tensors(op, stack) : on_shards(op, stack);
}

/// RAII, within an operator: the operators that it calls are intercepted.
class Intercepted {
 public:
  Intercepted() {
    for (auto key : {kAttention, kOperators}) c10::impl::tls_set_dispatch_key_excluded(key, false);
  }
  ~Intercepted() {
    for (auto key : {kAttention, kOperators}) c10::impl::tls_set_dispatch_key_excluded(key, true);
  }
  Intercepted(const Intercepted&) = delete;
  Intercepted& operator=(const Intercepted&) = delete;
};

/// Not by a static object: the linker may drop it from a static library, and a second copy would abort the
/// process.
void register_once() {
  static std::mutex mutex;
  static std::vector<c10::RegistrationHandleRAII> registrations;
  std::lock_guard lock(mutex);
  if (!registrations.empty()) return;
  auto& dispatcher = c10::Dispatcher::singleton();
  c10::DispatchKey key;
  try {
    std::vector<c10::RegistrationHandleRAII> handles;
    key = kOperators;
    handles.push_back(dispatcher.registerFallback(
        key, c10::KernelFunction::makeFromBoxedFunction<&every_operator>(), "wanpar"));
    key = kAttention;
    handles.push_back(dispatcher.registerFallback(key, c10::KernelFunction::makeFallthrough(), "wanpar"));
    handles.push_back(
        dispatcher.registerImpl({"aten::scaled_dot_product_attention", ""}, key,
                                c10::KernelFunction::makeFromUnboxedRuntimeFunction(&attention_kernel),
                                std::nullopt, nullptr, "wanpar"));
    key = kSplit;
    handles.push_back(dispatcher.registerFallback(
        key, c10::KernelFunction::makeFromBoxedFunction<&every_operator_on_parts>(), "wanpar"));
    registrations = std::move(handles);
  } catch (const std::exception& failure) {
    std::string why = failure.what();
    throw UsageError(
        fmt::format("the dispatch key {} is held by another library, or by a second copy of wanpar in this "
                    "process; load only one of them ({})",
                    c10::toString(key), why.substr(0, why.find('\n'))));
  }
}

/// Calls the handlers, innermost first, and finally the loop.
at::Tensor pass_blocks(size_t depth, const BlockStack& blocks, at::Tensor x, Tensors side) {
  while (depth > 0)
    if (auto* handler = dynamic_cast<BlocksHandler*>(stack.all[--depth]))
      return handler->run_blocks(blocks, std::move(x), std::move(side),
                                 [depth](const BlockStack& inner, at::Tensor y, Tensors beside) {
                                   return pass_blocks(depth, inner, std::move(y), std::move(beside));
                                 });
  for (int64_t i = 0; i < blocks.size; ++i) x = blocks.run(i, std::move(x), side);
  return x;
}

/// Calls `action` for each handler of this kind, innermost first.
template <class Kind, class Action>
void each_inwards_out(const Action& action) {
  for (size_t i = stack.all.size(); i-- > 0;)
    if (auto* handler = dynamic_cast<Kind*>(stack.all[i])) action(*handler);
}

/// RAII: restores a forward's dispatch state, with only the handlers that take part in the recomputation.
class Reentered {
 public:
  explicit Reentered(const at::ThreadLocalState& forward) : state_(forward) {}
  ~Reentered() {
    while (!held_.empty()) held_.pop_back();  // the innermost first
    stack = std::move(others_);
  }
  Reentered(const Reentered&) = delete;
  Reentered& operator=(const Reentered&) = delete;

  void hold(std::shared_ptr<void> handler) { held_.push_back(std::move(handler)); }

 private:
  at::ThreadLocalStateGuard state_;
  HandlerStack others_ = std::exchange(stack, {});
  std::vector<std::shared_ptr<void>> held_;
};

}  // namespace

NoInterceptGuard::NoInterceptGuard() : was_excluded_(c10::impl::tls_is_dispatch_key_excluded(kAttention)) {
  c10::impl::tls_set_dispatch_key_excluded(kAttention, true);
  c10::impl::tls_set_dispatch_key_excluded(kOperators, true);
}

NoInterceptGuard::~NoInterceptGuard() {
  c10::impl::tls_set_dispatch_key_excluded(kAttention, was_excluded_);
  c10::impl::tls_set_dispatch_key_excluded(kOperators, was_excluded_);
}

void initialize() { register_once(); }

void watch(const at::Tensor& tensor) {
  c10::InferenceMode as_it_was(tensor.is_inference());
  auto* impl = tensor.unsafeGetTensorImpl();
  const auto keys = impl->key_set().add(kOperators);
  auto watched = c10::make_intrusive<c10::TensorImpl>(c10::Storage(tensor.storage()), keys, impl->dtype());
  watched->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  impl->shallow_copy_from(watched);
}

struct Scope::Guard {
  explicit Guard(bool all_operators) : include(all_operators ? kBoth : c10::DispatchKeySet(kAttention)) {}
  c10::impl::IncludeDispatchKeyGuard include;
  // For TorchScript called inside the module: its optimized plans have a backward of their own.
  torch::jit::GraphOptimizerEnabledGuard as_written{false};
};

Scope::Scope(Handler& handler) {
  register_once();
  auto* of_operators = dynamic_cast<OperatorHandler*>(&handler);
  if (of_operators) stack.of_operators.emplace_back(*of_operators);  // it may throw
  stack.thrown = {};
  stack.all.push_back(&handler);
  if (of_operators) guard_ = std::make_unique<Guard>(of_operators->intercepts_operators());
}

Scope::~Scope() {
  if (guard_) stack.of_operators.pop_back();
  guard_.reset();
  stack.all.pop_back();
}

void Scope::rethrow() {
  const auto last = std::exchange(stack.thrown, {});
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& at_hand) {
    // A module may have caught the handler's error, and failed for another reason.
    bool is_its_text = last.error && std::string_view(at_hand.what()).find(last.message) != std::string::npos;
    if (is_its_text) std::rethrow_exception(last.error);
    throw;
  }
}

std::span<Handler* const> handlers() { return stack.all; }

void check_wanted_operators(size_t outer) {
  for (auto& wanted : stack.of_operators) {
    const Handler* handler = &wanted.handler();
    if (std::ranges::find(stack.all, handler) >= stack.all.begin() + static_cast<std::ptrdiff_t>(outer))
      wanted.check();
  }
}

Operator opened(const Operator& op) {
  auto inside = op;
  inside.compute = [compute = op.compute](const Tensors& inputs) {
    Intercepted again;
    return compute(inputs);
  };
  return inside;
}

at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions,
                          const std::optional<TokenGrid>& grid) {
  auto all = [&] {
    NamedTensors tensors{{"x", x}};
    for (auto& companion : companions) tensors.push_back({"companion", companion.tensor});
    return tensors;
  };
  const Crossing crossing(all());
  NoInterceptGuard no_intercept;
  each_inwards_out<TokenHandler>(
      [&](TokenHandler& handler) { x = handler.split_sequence(std::move(x), dim, companions, grid); });
  crossing.tell(all());
  return x;
}

at::Tensor gather_sequence(at::Tensor x, int64_t dim) {
  const Crossing crossing({{"x", x}});
  NoInterceptGuard no_intercept;
  each_inwards_out<TokenHandler>(
      [&](TokenHandler& handler) { x = handler.gather_sequence(std::move(x), dim); });
  crossing.tell({{"x", x}});
  return x;
}

at::Tensor unshard(at::Tensor x) {
  NoInterceptGuard no_intercept;
  each_inwards_out<TokenHandler>([&](TokenHandler& handler) { x = handler.unshard(std::move(x)); });
  return unsplit(x);  // also a split tensor that outlived its forward
}

at::Tensor substitute(const at::Tensor& original, at::Tensor replacement) {
  NoInterceptGuard no_intercept;
  each_inwards_out<SubstitutionHandler>(
      [&](SubstitutionHandler& handler) { handler.on_substitute(original, replacement); });
  return replacement;
}

RecomputeScope recompute_scope(std::span<const at::Tensor> inputs) {
  std::vector<RecomputeScope> each;
  for (auto* handler : stack.all)
    if (auto* recomputable = dynamic_cast<RecomputableHandler*>(handler))
      each.push_back(recomputable->recompute_scope(inputs));
  return [each = std::move(each), forward = at::ThreadLocalState()](std::span<const at::Tensor> inputs) {
    auto reentered = std::make_shared<Reentered>(forward);
    for (auto& again : each) reentered->hold(again(inputs));
    return reentered;
  };
}

at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, Tensors side) {
  auto y = pass_blocks(stack.all.size(), blocks, std::move(x), std::move(side));
  if (!y.defined())
    throw UsageError(
        "run_blocks: what comes after the blocks is another stage's, but this module goes on by itself; give "
        "it "
        "to run_blocks as its continuation: return run_blocks(blocks, x, side, [&](at::Tensor y) { … })");
  return y;
}

void run_blocks_then(const BlockStack& blocks, at::Tensor x, Tensors side,
                     const std::function<void(at::Tensor)>& then) {
  auto y = pass_blocks(stack.all.size(), blocks, std::move(x), std::move(side));
  if (y.defined()) then(std::move(y));
}

}  // namespace wanpar
