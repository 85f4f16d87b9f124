#include <ATen/core/ivalue.h>
#include <c10/util/Type.h>
#include <fmt/format.h>

#include <wanpar/core/error.hpp>
#include <wanpar/module/value.hpp>

namespace wanpar {
namespace detail {

std::string text_of_words(const c10::Scalar& number) {
  if (number.isComplex())
    return fmt::format("{} {}", number.toComplexDouble().real(), number.toComplexDouble().imag());
  return number.isFloatingPoint() ? text_of_plain(number.toDouble()) : text_of_plain(number.toLong());
}

std::string text_of_words(const c10::TensorOptions& options) {
  return fmt::format("{} {} {} {}", c10::toString(c10::typeMetaToScalarType(options.dtype())),
                     options.device().str(), static_cast<int>(options.layout()), options.requires_grad());
}

void walk_ivalue(c10::IValue& value, ValueVisitor& visitor) {
  auto element = [&](size_t i, c10::IValue part) {
    visitor.within(std::to_string(i), [&] { walk_ivalue(part, visitor); });
    return part;
  };
  if (value.isTensor()) {
    auto tensor = value.toTensor();
    visitor.tensor(tensor);
    value = std::move(tensor);
  } else if (value.isNone()) {
    visitor.none();
  } else if (value.isTuple()) {
    auto tuple = value.toTuple();
    std::vector<c10::IValue> parts;
    for (size_t i = 0; i < tuple->elements().size(); ++i) parts.push_back(element(i, tuple->elements()[i]));
    value = c10::ivalue::Tuple::createNamed(std::move(parts), tuple->type<c10::TupleType>());
  } else if (value.isTensorList()) {
    auto list = value.toTensorVector();
    walk(list, visitor);
    value = std::move(list);
  } else if (value.isList()) {
    auto list = value.toList().copy();
    for (size_t i = 0; i < list.size(); ++i) list.set(i, element(i, list.get(i)));
    value = std::move(list);
  } else if (value.isGenericDict()) {
    auto dict = value.toGenericDict().copy();
    for (auto& entry : dict) {
      auto part = entry.value();
      auto key = entry.key().isString() ? entry.key().toStringRef() : fmt::format("{}", entry.key().toInt());
      visitor.within(key, [&] { walk_ivalue(part, visitor); });
      entry.setValue(std::move(part));
    }
    value = std::move(dict);
  } else if (value.isInt() || value.isDouble() || value.isBool() || value.isString() || value.isDevice()) {
    visitor.plain(value.isString()   ? value.toStringRef()
                  : value.isDouble() ? text_of_plain(value.toDouble())
                  : value.isDevice() ? value.toDevice().str()
                                     : std::to_string(value.isInt() ? value.toInt() : value.toBool()));
  } else {
    throw UsageError(
        fmt::format("a TorchScript value of type {} cannot be searched for tensors; give or return tensors, "
                    "numbers, strings, "
                    "and lists, tuples and dicts of them",
                    value.tagKind()));
  }
}

void walk_ivalues(std::vector<c10::IValue>& values, ValueVisitor& visitor) {
  for (size_t i = 0; i < values.size(); ++i)
    visitor.within(std::to_string(i), [&] { walk_ivalue(values[i], visitor); });
}

at::Tensor tensor_of(const c10::IValue& result) {
  if (result.isTensor()) return result.toTensor();
  throw UsageError(
      fmt::format("the TorchScript module gave a {}; call it with a list of IValues, which gives an IValue, "
                  "or take another "
                  "result type: wanpar::ModelOf<c10::IValue>",
                  result.tagKind()));
}

}  // namespace detail

bool Value::is_none() const {
  if (find<std::nullopt_t>()) return true;
  if (auto* tensor = find<at::Tensor>()) return !tensor->defined();
  if (auto* tensor = find<std::optional<at::Tensor>>()) return !tensor->has_value();
  auto* ivalue = find<c10::IValue>();
  return ivalue && ivalue->isNone();
}

at::Tensor Value::tensor() const {
  if (is_none()) return {};
  if (auto* tensor = find<std::optional<at::Tensor>>()) return **tensor;
  auto* ivalue = find<c10::IValue>();
  if (ivalue && ivalue->isTensor()) return ivalue->toTensor();
  refuse(typeid(at::Tensor));
}

c10::IValue Value::ivalue_of(const Value& value) {
  if (value.is_none()) return {};
  if (auto* tensor = value.find<at::Tensor>()) return *tensor;
  if (auto* tensor = value.find<std::optional<at::Tensor>>()) return **tensor;
  if (auto* number = value.find<int64_t>()) return *number;
  if (auto* number = value.find<double>()) return *number;
  if (auto* truth = value.find<bool>()) return *truth;
  if (auto* text = value.find<std::string>()) return *text;
  if (auto* list = value.find<std::vector<at::Tensor>>()) return *list;
  value.refuse(typeid(c10::IValue));
}

void Value::refuse(const std::type_info& wanted) const {
  throw UsageError(fmt::format("a value of type {} was met where {} is wanted",
                               c10::demangle(held_->type().name()), c10::demangle(wanted.name())));
}

}  // namespace wanpar
