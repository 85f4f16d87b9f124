#include "module/follow/operator_facts.hpp"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <unordered_set>

#include "core/hash.hpp"

namespace wanpar {
namespace {

/// add of add_; __and__ as it is.
std::string_view without_underscore(std::string_view name) {
  return name.ends_with("_") && !name.ends_with("__") ? name.substr(0, name.size() - 1) : name;
}

bool may_hold_number(const c10::TypePtr& type) {
  switch (type->kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::NumberType:
    case c10::TypeKind::BoolType:
      return true;
    case c10::TypeKind::ListType:
    case c10::TypeKind::OptionalType:
      return may_hold_number(type->containedType(0));
    default:
      return false;
  }
}

bool counts_nothing(const c10::TypePtr& type) {
  auto kind = type->kind();
  if (kind == c10::TypeKind::OptionalType) return counts_nothing(type->containedType(0));
  return kind == c10::TypeKind::FloatType || kind == c10::TypeKind::BoolType;
}

/// Numbers that count dimensions, or stand for a word.
bool is_no_quantity(const std::string& name) {
  static const std::unordered_set<std::string> names{"dim",
                                                     "dims",
                                                     "dim0",
                                                     "dim1",
                                                     "axis",
                                                     "axis0",
                                                     "axis1",
                                                     "start_dim",
                                                     "end_dim",
                                                     "dtype",
                                                     "layout",
                                                     "device",
                                                     "source",
                                                     "out_dtype",
                                                     "destination",
                                                     "cudnn_enabled",
                                                     "memory_format",
                                                     "dim_arange",
                                                     "tensor_indices_or_sections",
                                                     "reduction"};
  return names.contains(name);
}

bool is_extent(const std::string& name) {
  static const std::unordered_set<std::string> names{"size",        "shape",  "sizes", "repeats",
                                                     "output_size", "length", "end",   "split_size",
                                                     "split_sizes", "start"};
  return names.contains(name);
}

bool is_left_out(const Operator& op, size_t i) {
  auto& value = op.arguments[i];
  if (value.isNone()) return true;
  auto& usual = op.handle.schema().arguments()[i].default_value();
  return usual && !value.isList() && *usual == value;
}

OperatorKind kind_of(const std::string& name) {
  using enum OperatorKind;
  static const std::unordered_map<std::string, OperatorKind> kinds{
      {"aten::scaled_dot_product_attention", attention},
      {"aten::conv1d", convolution},
      {"aten::conv2d", convolution},
      {"aten::conv3d", convolution},
      {"aten::convolution", convolution},
      {"aten::_convolution", convolution},
      {"aten::group_norm", norm},
      {"aten::instance_norm", norm},
      {"aten::cat", cat},
      {"aten::concat", cat},
      {"aten::constant_pad_nd", pad},
      {"aten::slice", part},
      {"aten::narrow", part},
      {"aten::select", part},
      {"aten::split_with_sizes", part},
      {"aten::sum", reduction},
      {"aten::mean", reduction},
      {"aten::amax", reduction},
      {"aten::amin", reduction},
      {"aten::bmm", product},
      {"aten::baddbmm", product},
      {"aten::matmul", product}};
  auto found = kinds.find(name);
  return found == kinds.end() ? any : found->second;
}

bool fills(const std::string& name) {
  static const std::unordered_set<std::string> names{"aten::empty",    "aten::zeros",       "aten::ones",
                                                     "aten::full",     "aten::new_empty",   "aten::new_zeros",
                                                     "aten::new_ones", "aten::new_full",    "aten::expand",
                                                     "aten::repeat",   "aten::broadcast_to"};
  return names.contains(name);
}

OperatorFacts facts_of(const Operator& op) {
  OperatorFacts facts;
  auto& schema = op.handle.schema();
  auto name = std::string_view(op.name);
  const bool is_own = name.starts_with("aten::");
  name.remove_prefix(name.find("::") + 2);
  facts.kind = kind_of(op.name);
  facts.hash = static_cast<uint64_t>(stable_hash(op.name));
  facts.fills = fills(op.name);
  facts.is_empty = op.name.find("empty") != op.name.npos;
  facts.is_random = op.handle.hasTag(at::Tag::nondeterministic_seeded);
  if (is_own) {
    const auto plain = without_underscore(name);
    facts.view = rule_of_views(plain);
    if (!facts.view) facts.math = rule_of_math(plain);
    if (!facts.view && !facts.math && op.handle.hasTag(at::Tag::pointwise)) facts.math = &elementwise;
    facts.is_composite = op.handle.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  }
  auto& arguments = schema.arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto* alias = arguments[i].alias_info();
    if (alias && alias->isWrite()) facts.written.push_back(i);
    if (alias && !alias->isWrite()) facts.is_view = true;
    if (may_hold_number(arguments[i].real_type()) && !is_no_quantity(arguments[i].name()))
      facts.numbers.push_back(i);
    facts.is_real.push_back(counts_nothing(arguments[i].real_type()));
    facts.is_extent.push_back(is_extent(arguments[i].name()));
  }
  facts.is_mutable = !facts.written.empty();
  return facts;
}

}  // namespace

const OperatorFacts& KnownOperators::of(const Operator& op) {
  auto* key = &op.handle.schema();
  auto found = known_.find(key);
  if (found == known_.end()) found = known_.emplace(key, facts_of(op)).first;
  return found->second;
}

Tensors written_by(const OperatorFacts& facts, const Operator& op) {
  Tensors written;
  for (auto i : facts.written) {
    auto& value = op.arguments[i];
    if (value.isTensor() && value.toTensor().defined()) written.push_back(value.toTensor());
    if (value.isTensorList())
      for (const at::Tensor& x : value.toTensorVector()) written.push_back(x);
  }
  return written;
}

bool writes_to(const OperatorFacts& facts, const Operator& op, const at::Tensor& x) {
  if (!facts.is_mutable) return false;
  const auto written = written_by(facts, op);
  return std::any_of(written.begin(), written.end(), [&](auto& target) { return target.is_same(x); });
}

bool draws(const Operator& op) {
  auto& arguments = op.handle.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto& name = arguments[i].name();
    auto& value = op.arguments[i];
    if ((name == "train" || name == "training") && value.isBool() && !value.toBool()) return false;
    if ((name == "p" || name == "dropout_p" || name == "dropout") && value.isDouble() &&
        value.toDouble() == 0)
      return false;
  }
  return true;
}

bool has_counts(const OperatorFacts& facts, const Operator& op, bool extents_too) {
  return std::any_of(facts.numbers.begin(), facts.numbers.end(), [&](size_t i) {
    if (facts.is_real[i] || (facts.is_extent[i] && !extents_too) || is_left_out(op, i)) return false;
    auto& value = op.arguments[i];
    return !value.isIntList() || value.toIntVector().size() > 0;
  });
}

std::vector<Number> numbers_of(const OperatorFacts& facts, const Operator& op) {
  std::vector<Number> numbers;
  for (auto i : facts.numbers) {
    if (is_left_out(op, i)) continue;
    auto& value = op.arguments[i];
    if (value.isInt()) numbers.push_back({i, -1, static_cast<double>(value.toInt())});
    if (value.isBool()) numbers.push_back({i, -1, value.toBool() ? 1.0 : 0.0});
    if (value.isDouble()) numbers.push_back({i, -1, value.toDouble()});
    if (value.isIntList()) {
      auto list = value.toIntVector();
      for (size_t n = 0; n < list.size(); ++n)
        numbers.push_back({i, static_cast<int>(n), static_cast<double>(list[n])});
    }
    if (value.isDoubleList()) {
      auto list = value.toDoubleVector();
      for (size_t n = 0; n < list.size(); ++n) numbers.push_back({i, static_cast<int>(n), list[n]});
    }
  }
  return numbers;
}

}  // namespace wanpar
