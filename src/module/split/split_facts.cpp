#include "module/split/split_facts.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// "add" for "aten::add_"; "__and__" is unchanged.
std::string_view plain_name(std::string_view name) {
  name.remove_prefix(name.find("::") + 2);
  return name.ends_with("_") && !name.ends_with("__") ? name.substr(0, name.size() - 1) : name;
}

/// The out-of-place variant of an operator: add.Tensor for add_.Tensor and add.out.
c10::OperatorName making_a_new_tensor(c10::OperatorName name) {
  if (name.name.ends_with("_") && !name.name.ends_with("__")) name.name.pop_back();
  auto& overload = name.overload_name;
  if (overload.ends_with("out")) overload.resize(overload.size() - (overload == "out" ? 3 : 4));
  return name;
}

/// Whether LibTorch tags the operator as pointwise; often only the out-of-place variant has the tag.
bool is_pointwise(const c10::OperatorHandle& op) {
  if (op.hasTag(at::Tag::pointwise)) return true;
  const auto plain = c10::Dispatcher::singleton().findSchema(making_a_new_tensor(op.operator_name()));
  return plain && plain->hasTag(at::Tag::pointwise);
}

SplitFacts found_out(const c10::OperatorHandle& op) {
  SplitFacts facts;
  auto& schema = op.schema();
  auto& arguments = schema.arguments();
  bool has_out = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto* alias = arguments[i].alias_info();
    if (alias && alias->isWrite()) facts.written.push_back(i);
    if (alias && !alias->isWrite()) facts.is_view = true;
    has_out |= alias && alias->isWrite() && arguments[i].is_out();
  }
  for (auto& result : schema.returns()) {
    auto is_it = [&](size_t i) {
      return result.alias_info() && *result.alias_info() == *arguments[i].alias_info();
    };
    auto found = std::find_if(facts.written.begin(), facts.written.end(), is_it);
    facts.returns_argument.push_back(found == facts.written.end() ? -1 : static_cast<int>(*found));
  }
  const std::string_view name = schema.name();
  if (!name.starts_with("aten::")) return facts;
  facts.is_composite = op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
  const auto rule = split_rule(plain_name(name));
  facts.is_elementwise = rule ? rule == &elementwise : is_pointwise(op);
  if (has_out) return facts;
  facts.rule = facts.is_elementwise ? &elementwise : rule;
  facts.keeps_strides = (facts.is_elementwise && name != "aten::masked_fill") || name == "aten::flip" ||
                        name == "aten::roll" || name == "aten::sort" || name == "aten::argsort";
  return facts;
}

}  // namespace

bool SplitFacts::writes(size_t argument) const {
  return std::find(written.begin(), written.end(), argument) != written.end();
}

const SplitFacts& split_facts(const c10::OperatorHandle& op) {
  static thread_local std::unordered_map<const c10::FunctionSchema*, SplitFacts> known;
  auto found = known.find(&op.schema());
  if (found == known.end()) found = known.emplace(&op.schema(), found_out(op)).first;
  return found->second;
}

bool draws(const c10::OperatorHandle& op, std::span<const c10::IValue> arguments) {
  if (!op.hasTag(at::Tag::nondeterministic_seeded)) return false;
  auto& names = op.schema().arguments();
  for (size_t i = 0; i < names.size(); ++i) {
    auto& name = names[i].name();
    auto& value = arguments[i];
    if ((name == "train" || name == "training") && value.isBool() && !value.toBool()) return false;
    if ((name == "p" || name == "dropout_p" || name == "dropout") && value.isDouble() &&
        value.toDouble() == 0)
      return false;
  }
  return true;
}

}  // namespace wanpar
