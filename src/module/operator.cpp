// Operators with other arguments or inputs.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <memory>
#include <utility>
#include <wanpar/extend/module/interceptor.hpp>

#include "module/boxed_tensors.hpp"
#include "module/split/split_tensor.hpp"

namespace wanpar {
namespace {

const c10::OperatorHandle& attention_operator() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("aten::scaled_dot_product_attention", "");
  return handle;
}

}  // namespace

std::optional<Attention> as_attention(const Operator& op) {
  if (op.name != "aten::scaled_dot_product_attention") return {};
  const Attention given{{},
                        {},
                        {},
                        {},
                        op.arguments[4].toDouble(),
                        op.arguments[5].toBool(),
                        op.arguments[6].toOptional<double>(),
                        op.arguments[7].toBool()};
  return given.on(op.inputs);
}

Operator with_arguments(const Operator& op, std::vector<c10::IValue> arguments) {
  auto given = std::make_shared<const std::vector<c10::IValue>>(std::move(arguments));
  auto compute = [given, handle = op.handle](const Tensors& inputs) -> Tensors {
    torch::jit::Stack call(given->begin(), given->end());
    put_back(inputs, call);
    handle.callBoxed(call);
    return tensors_among(call);
  };
  const std::span<const c10::IValue> seen(given->data(), given->size());
  return Operator{op.name, op.handle, seen, op.inputs, compute};
}

Operator with_inputs(const Operator& op, Tensors inputs) {
  std::vector<c10::IValue> arguments(op.arguments.begin(), op.arguments.end());
  put_back(inputs, arguments);
  auto here = with_arguments(op, std::move(arguments));
  here.inputs = std::move(inputs);
  return here;
}

std::vector<c10::IValue> arguments_of(const Attention& call) {
  return {call.query, call.key, call.value, call.mask, call.dropout, call.causal, call.scale, call.grouped};
}

Operator as_operator(const Attention& call, std::span<const c10::IValue> arguments) {
  return {attention_operator().schema().name(), attention_operator(), arguments, call.inputs(),
          [call](const Tensors& inputs) { return Tensors{attend(call.on(inputs))}; }};
}

at::Tensor attend(const Attention& c) {
  for (auto& x : c.inputs())
    if (auto* split = as_split(x)) return split->group()->attention(c);
  return at::scaled_dot_product_attention(c.query, c.key, c.value, c.mask, c.dropout, c.causal, c.scale,
                                          c.grouped);
}

}  // namespace wanpar
