// The one file that knows the dispatch keys by which strategies enter modules that know nothing of them.
#include <wanpar/module/interceptor.hpp>

#include <ATen/ThreadLocalState.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <utility>
#include <vector>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// Two keys that lie above autograd and autocast; the build says which. By the one attention is met, and
/// every other operator falls through it at no cost. The other meets every operator, and is on where a
/// handler watches.
constexpr auto kAttention = c10::DispatchKey::WANPAR_ATTENTION_KEY;
constexpr auto kOperators = c10::DispatchKey::WANPAR_OPERATORS_KEY;
constexpr c10::DispatchKeySet kBoth({kAttention, kOperators});
static_assert(kAttention > kOperators);  // an attention is not first met as any operator

/// The handlers of this thread, outermost first. The key may be on where this is empty, in a thread that took
/// over another's dispatch state: then every operator is plain.
thread_local std::vector<Handler*> handlers;

/// What a handler threw last in this thread. TorchScript's interpreter gives on only the text of an
/// exception.
struct Thrown {
  std::exception_ptr error;
  std::string message;
};
thread_local Thrown thrown;

template <class Action>
auto remembering(const Action& action) {
  try {
    return action();
  } catch (const Error& error) {
    thrown = {std::current_exception(), error.what()};
    throw;
  }
}

at::Tensor plain_attention(const Attention& c) {
  return at::scaled_dot_product_attention(c.query, c.key, c.value, c.mask, c.dropout, c.causal, c.scale,
                                          c.grouped);
}

at::Tensor ask(size_t depth, const Attention& call) {
  if (depth == 0) return plain_attention(call);
  return handlers[depth - 1]->attention(call,
                                        [depth](const Attention& inner) { return ask(depth - 1, inner); });
}

/// Autocast lies below the key: what it would do to the inputs is done here, so that a handler sends what is
/// computed with. No handler is told of a cast, so the result goes on in the place of what was cast.
void cast_as_autocast_would(Attention& call) {
  auto device = call.query.device().type();
  if (!at::autocast::is_autocast_enabled(device) || call.query.scalar_type() == at::kDouble) return;
  auto dtype = at::autocast::get_autocast_dtype(device);
  auto cast = [dtype](at::Tensor& x) { x = in_place_of(x, x.to(dtype)); };
  cast(call.query), cast(call.key), cast(call.value);
  if (call.mask && call.mask->is_floating_point()) cast(*call.mask);
}

/// The handlers of this thread that want to be told of operators, outermost first.
std::vector<Handler*> watchers() {
  std::vector<Handler*> result;
  for (auto* handler : handlers)
    if (handler->watches()) result.push_back(handler);
  return result;
}

/// What a handler does to these inputs could be no part of the graph here: their gradient would be lost
/// without an error.
void require_autograd(const Operator& op) {
  if (at::GradMode::is_enabled() &&
      c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutogradFunctionality) &&
      std::any_of(op.inputs.begin(), op.inputs.end(), [](auto& x) { return x.requires_grad(); }))
    throw Error(fmt::format(
        "{} is called below autograd (at::AutoDispatchBelowAutograd, AutoNonVariableTypeMode) on a "
        "tensor that requires a gradient, which an exchange between ranks would lose; call the "
        "module under at::NoGradGuard or c10::InferenceMode instead",
        op.name));
}

const c10::OperatorHandle& attention_operator() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::scaled_dot_product_attention", "");
  return handle;
}

at::Tensor attention_kernel(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const std::optional<at::Tensor>& mask, double dropout, bool causal,
                            std::optional<double> scale, bool grouped) {
  Plain plain;
  Attention call{query, key, value, mask, dropout, causal, scale, grouped};
  if (mask && !mask->defined()) call.mask.reset();
  if (handlers.empty()) return plain_attention(call);
  cast_as_autocast_would(call);
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const std::vector<c10::IValue> arguments{query, key, value, mask, dropout, causal, scale, grouped};
  std::vector<at::Tensor> inputs{call.query, call.key, call.value};
  if (call.mask) inputs.push_back(*call.mask);
  const Operator seen{attention_operator().schema().name(), inputs, arguments, attention_operator()};
  return remembering([&] {
    require_autograd(seen);
    for (auto* handler : watchers()) handler->before(seen);
    call.query = inputs[0], call.key = inputs[1], call.value = inputs[2];
    if (call.mask) call.mask = inputs[3];
    const at::Tensor out[] = {ask(handlers.size(), call)};
    for (auto* handler : watchers()) handler->after(seen, out);
    return out[0];
  });
}

/// Shows each tensor among the values to `look`, which may put another in its place.
template <class Look>
void each_tensor(c10::ArrayRef<c10::IValue> values, const Look& look) {
  for (auto& value : values) {
    if (value.isTensor() && value.toTensor().defined()) look(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& tensor : value.toTensorVector()) look(tensor);
    if (value.isOptionalTensorList())
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        if (tensor && tensor->defined()) look(*tensor);
  }
}

std::vector<at::Tensor> tensors_of(c10::ArrayRef<c10::IValue> values) {
  std::vector<at::Tensor> tensors;
  each_tensor(values, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  return tensors;
}

/// Puts back tensors that handlers exchanged, in the order in which each_tensor shows them.
void put_back(const std::vector<at::Tensor>& tensors, torch::jit::Stack::iterator first,
              torch::jit::Stack::iterator last) {
  auto next = tensors.begin();
  for (auto value = first; value != last; ++value) {
    if (value->isTensor() && value->toTensor().defined()) *value = *next++;
    if (value->isTensorList()) {
      auto list = value->toTensorVector();
      for (auto& tensor : list) tensor = *next++;
      *value = std::move(list);
    }
    if (value->isOptionalTensorList()) {
      auto list = value->toOptionalTensorVector();
      for (auto& tensor : list)
        if (tensor && tensor->defined()) tensor = *next++;
      *value = c10::List<std::optional<at::Tensor>>(list);
    }
  }
}

bool same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), [](auto& x, auto& y) { return x.is_same(y); });
}

std::optional<at::Tensor> taken_over(const std::vector<Handler*>& told, const Operator& op,
                                     const Handler::NextOperator& next) {
  for (auto handler = told.rbegin(); handler != told.rend(); ++handler)
    if (auto result = (*handler)->instead(op, next)) return result;
  return {};
}

void every_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  Plain plain;
  auto below = keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kOperators);
  const auto told = watchers();
  if (told.empty()) return op.redispatchBoxed(below, stack);
  const auto count = static_cast<std::ptrdiff_t>(op.schema().arguments().size());
  const std::vector<c10::IValue> arguments(stack->end() - count, stack->end());
  const auto given = tensors_of(arguments);
  auto inputs = given;
  const Operator seen{op.schema().name(), inputs, arguments, op};
  remembering([&] {
    require_autograd(seen);
    for (auto* handler : told) handler->before(seen);
  });
  if (!same(inputs, given)) put_back(inputs, stack->end() - count, stack->end());
  const auto next = [&](const std::vector<at::Tensor>& others) {
    torch::jit::Stack again(stack->end() - count, stack->end());
    put_back(others, again.begin(), again.end());
    op.redispatchBoxed(below, &again);
    return again.back().toTensor();
  };
  if (auto result = remembering([&] { return taken_over(told, seen, next); })) {
    torch::jit::drop(*stack, count);
    torch::jit::push(*stack, std::move(*result));
  } else {
    op.redispatchBoxed(below, stack);
  }
  auto outputs = tensors_of(torch::jit::last(*stack, op.schema().returns().size()));
  remembering([&] {
    for (auto* handler : told) handler->after(seen, outputs);
  });
}

/// At the first scope, not by a static object: a static archive would drop that, a second copy of it abort
/// the process.
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
    registrations = std::move(handles);
  } catch (const std::exception& failure) {
    std::string why = failure.what();
    throw Error(
        fmt::format("the dispatch key {} is held by another library, or by a second copy of wanpar in this "
                    "process; load only one of them ({})",
                    c10::toString(key), why.substr(0, why.find('\n'))));
  }
}

at::Tensor ask_blocks(size_t depth, const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side) {
  if (depth > 0)
    return handlers[depth - 1]->run_blocks(
        blocks, std::move(x), std::move(side),
        [depth](const BlockStack& inner, at::Tensor y, std::vector<at::Tensor> beside) {
          return ask_blocks(depth - 1, inner, std::move(y), std::move(beside));
        });
  for (int64_t i = 0; i < blocks.size; ++i) x = blocks.run(i, std::move(x), side);
  return x;
}

/// A thread as it was in a forward: its dispatch state, and the handlers that take part again, no others.
class Reentered {
 public:
  explicit Reentered(const at::ThreadLocalState& forward) : state_(forward) {}
  ~Reentered() {
    while (!held_.empty()) held_.pop_back();  // the innermost first
    handlers = std::move(others_);
  }
  Reentered(const Reentered&) = delete;
  Reentered& operator=(const Reentered&) = delete;

  void hold(std::shared_ptr<void> handler) { held_.push_back(std::move(handler)); }

 private:
  at::ThreadLocalStateGuard state_;
  std::vector<Handler*> others_ = std::exchange(handlers, {});
  std::vector<std::shared_ptr<void>> held_;
};

}  // namespace

Plain::Plain() : was_excluded_(c10::impl::tls_is_dispatch_key_excluded(kAttention)) {
  c10::impl::tls_set_dispatch_key_excluded(kAttention, true);
  c10::impl::tls_set_dispatch_key_excluded(kOperators, true);
}

Plain::~Plain() {
  c10::impl::tls_set_dispatch_key_excluded(kAttention, was_excluded_);
  c10::impl::tls_set_dispatch_key_excluded(kOperators, was_excluded_);
}

struct Scope::Guard {
  explicit Guard(bool watches) : include(watches ? kBoth : c10::DispatchKeySet(kAttention)) {}
  c10::impl::IncludeDispatchKeyGuard include;
};

Scope::Scope(Handler& handler) {
  register_once();
  thrown = {};
  handlers.push_back(&handler);
  guard_ = std::make_unique<Guard>(handler.watches());
}

Scope::~Scope() {
  guard_.reset();
  handlers.pop_back();
}

void Scope::rethrow() {
  const auto last = std::exchange(thrown, {});
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& at_hand) {
    // A module may have caught what a handler threw, and fail at something else.
    bool is_its_text = last.error && std::string_view(at_hand.what()).find(last.message) != std::string::npos;
    if (is_its_text) std::rethrow_exception(last.error);
    throw;
  }
}

bool within(std::string_view strategy) {
  return std::any_of(handlers.begin(), handlers.end(),
                     [=](auto* handler) { return handler->strategy() == strategy; });
}

at::Tensor split_sequence(at::Tensor x, int64_t dim, std::initializer_list<Companion> companions) {
  Plain plain;
  for (size_t i = handlers.size(); i-- > 0;) x = handlers[i]->split_sequence(std::move(x), dim, companions);
  return x;
}

at::Tensor gather_sequence(at::Tensor x, int64_t dim) {
  Plain plain;
  for (size_t i = handlers.size(); i-- > 0;) x = handlers[i]->gather_sequence(std::move(x), dim);
  return x;
}

at::Tensor whole(at::Tensor x) {
  Plain plain;
  for (size_t i = handlers.size(); i-- > 0;) x = handlers[i]->whole(std::move(x));
  return x;
}

at::Tensor in_place_of(const at::Tensor& like, at::Tensor x) {
  Plain plain;
  for (auto* handler : handlers) handler->goes_on(x, like);
  return x;
}

Reentry reentry(std::span<const at::Tensor> inputs) {
  std::vector<Reentry> each;
  for (auto* handler : handlers)
    if (auto again = handler->reentry(inputs)) each.push_back(std::move(again));
  return [each = std::move(each), forward = at::ThreadLocalState()](std::span<const at::Tensor> inputs) {
    auto reentered = std::make_shared<Reentered>(forward);
    for (auto& again : each) reentered->hold(again(inputs));
    return reentered;
  };
}

at::Tensor run_blocks(const BlockStack& blocks, at::Tensor x, std::vector<at::Tensor> side) {
  return ask_blocks(handlers.size(), blocks, std::move(x), std::move(side));
}

}  // namespace wanpar
