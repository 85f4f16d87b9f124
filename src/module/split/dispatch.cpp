#include "module/split/dispatch.hpp"

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <optional>
#include <wanpar/core/error.hpp>

#include "module/boxed_tensors.hpp"
#include "module/split/split_call.hpp"

namespace wanpar {
namespace {

void refuse_what_nobody_can(const SplitCall& call) {
  if (draws(call.op(), call.arguments()))
    throw UsageError(
        fmt::format("{}: {} draws other random numbers on every rank than one rank would; call eval(), or "
                    "set its dropout "
                    "to 0, or draw them for the whole sequence before and give them as an argument",
                    call.group().name(), call.name()));
}

/// aten::unsqueeze for aten::unsqueeze_; nullopt if there is none.
std::optional<c10::OperatorHandle> making_a_new_view(c10::OperatorName name) {
  if (!name.name.ends_with("_")) return {};
  name.name.pop_back();
  auto found = c10::Dispatcher::singleton().findSchema(name);
  if (found || !name.overload_name.empty()) return found;
  return c10::Dispatcher::singleton().findSchema({name.name, "int"});  // aten::transpose
}

/// In-place view operators: the tensor becomes the result of the out-of-place operator.
void view_in_place(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const at::Tensor tensor = torch::jit::peek(*stack, 0, op.schema().arguments().size()).toTensor();
  const auto& group = SplitCall(op, split_facts(op), *stack).group();
  const auto new_view = making_a_new_view(op.operator_name());
  if (new_view) on_split_tensors(*new_view, stack);
  const at::Tensor view = new_view ? torch::jit::pop(*stack).toTensor() : at::Tensor();
  if (!as_split(tensor) || !placement_of(view))
    throw UsageError(fmt::format(
        "{}: {} gives split tokens another shape in place; use the operator that makes a new tensor",
        group.name(), op.schema().name()));
  tensor.unsafeGetTensorImpl()->shallow_copy_from(view.getIntrusivePtr());
  stack->push_back(tensor);
}

void keep_gradients_whole(const SplitCall& call) {
  if (!at::GradMode::is_enabled() || c10::InferenceMode::is_enabled()) return;
  look_at_tensors(call.arguments(), [](const at::Tensor& x) {
    if (!as_split(x)) keep_gradient_replicated(x);
  });
}

}  // namespace

void on_split_tensors(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  static const auto view = c10::Dispatcher::singleton().findSchemaOrThrow("aten::view", "");
  if (op.schema().name() == "aten::_reshape_alias") {  // its strides are global
    stack->pop_back();
    return on_split_tensors(view, stack);
  }
  if (op.schema().name() ==
      "aten::max_pool1d") {  // without gradients LibTorch's kernel accesses the memory directly
    static const auto with_indices =
        c10::Dispatcher::singleton().findSchemaOrThrow("aten::max_pool1d_with_indices", "");
    on_split_tensors(with_indices, stack);
    stack->pop_back();
    return;
  }
  auto& facts = split_facts(op);
  if (facts.is_composite)
    return op.callBoxedForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd, *stack);
  const BelowAutograd below;
  if (op.hasTag(at::Tag::inplace_view)) return view_in_place(op, stack);
  SplitCall call(op, facts, *stack);
  refuse_what_nobody_can(call);
  keep_gradients_whole(call);
  call.group().meets(call);
  if (facts.rule && call.has_parts() && facts.rule(call)) return;
  SplitCall(op, facts, *stack).run_replicated();
}

}  // namespace wanpar
