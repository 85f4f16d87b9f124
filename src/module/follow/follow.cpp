#include "module/follow/follow.hpp"

#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "module/follow/rules.hpp"

namespace wanpar {
namespace {

/// add of add_; __and__ as it is.
std::string_view without_underscore(std::string_view name) {
  name.remove_prefix(name.find("::") + 2);
  return name.ends_with("_") && !name.ends_with("__") ? name.substr(0, name.size() - 1) : name;
}

bool gives_tensors(const Operator& op) {
  auto& returns = op.handle.schema().returns();
  return std::any_of(returns.begin(), returns.end(), [](auto& value) {
    auto kind = value.type()->kind();
    return kind == c10::TypeKind::TensorType || kind == c10::TypeKind::ListType;
  });
}

/// Whether a number that it is given says how many elements it gives along some dimension.
bool takes_extent(const Operator& op) {
  static const std::unordered_set<std::string_view> extents{
      "length", "end", "size", "split_size", "split_sizes", "output_size", "k", "pad"};
  auto& arguments = op.handle.schema().arguments();
  return std::any_of(arguments.begin(), arguments.end(), [](auto& x) { return extents.contains(x.name()); });
}

Rule rule_of(const Operator& op) {
  auto name = without_underscore(op.name);
  if (auto rule = rule_of_views(name)) return rule;
  if (auto rule = rule_of_math(name)) return rule;
  return op.handle.hasTag(at::Tag::pointwise) ? &elementwise : nullptr;
}

}  // namespace

const at::Tensor& Step::tensor(size_t i) const {
  static const at::Tensor none;
  return i < op.arguments.size() && argument(i).isTensor() ? argument(i).toTensor() : none;
}

const SplitPlace* Step::place(size_t i) const { return follow.of(tensor(i)); }

bool Step::is_one(const at::Tensor& x, int64_t dim, const SplitPlace& split) const {
  if (x.size(dim) != 1) return false;
  if (split.single && split.before * split.after == 1 && follow.may_be_share(x))
    refuse(fmt::format(
        "meets a tensor {} of the module's own, whose one element along the split dimension {} may be made "
        "for the one that a rank has of {}; give every rank two, or hand it to split_sequence as a companion",
        x.sizes(), split.dim, split.total));
  return true;
}

const c10::IValue* Step::named(std::string_view name) const {
  auto& arguments = op.handle.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == name) return &op.arguments[i];
  return nullptr;
}

int64_t Step::along(std::string_view name, int64_t dim) const {
  auto* value = named(name);
  if (value->isString()) return 0;
  auto each = value->toIntVector();
  return each[each.size() == 1 ? 0 : dim - 2];
}

std::optional<int64_t> Step::dim(std::string_view name, int64_t dims) const {
  auto* value = named(name);
  if (!value || !value->isInt()) return {};
  return value->toInt() < 0 ? value->toInt() + dims : value->toInt();
}

std::optional<std::vector<int64_t>> Step::dims(std::string_view name, int64_t dims) const {
  auto* value = named(name);
  if (!value || value->isNone()) return {};
  auto list = value->isInt() ? std::vector<int64_t>{value->toInt()} : value->toIntVector();
  for (auto& d : list) d = d < 0 ? d + dims : d;
  return list;
}

void Follow::mark(const at::Tensor& tensor, const SplitPlace& place) {
  keep(tensor, place);
  single_ |= place.single;
}

void Follow::keep(const at::Tensor& tensor, std::optional<SplitPlace> place) {
  auto* impl = tensor.unsafeGetTensorImpl();
  marks_.insert_or_assign(impl, Mark{Weak(tensor.getIntrusivePtr()), place});
  if (marks_.size() > sweep_at_) sweep();
}

const Follow::Mark* Follow::mark_of(const at::Tensor& tensor) const {
  if (!tensor.defined()) return nullptr;
  auto found = marks_.find(tensor.unsafeGetTensorImpl());
  return found != marks_.end() && !found->second.tensor.expired() ? &found->second : nullptr;
}

const SplitPlace* Follow::of(const at::Tensor& tensor) const {
  auto* mark = mark_of(tensor);
  return mark && mark->place ? &*mark->place : nullptr;
}

bool Follow::may_be_share(const at::Tensor& x) const {
  auto* mark = mark_of(x);
  return mark && !mark->place;
}

bool Follow::touches(std::span<const at::Tensor> tensors) const {
  return std::any_of(tensors.begin(), tensors.end(), [&](auto& x) { return of(x); });
}

void Follow::refuse(const Operator& op, const std::string& reason) const {
  auto split = std::find_if(op.inputs.begin(), op.inputs.end(), [&](auto& x) { return of(x); });
  throw Error(fmt::format("{}: {} {} (split is dimension {} of {}); {}", strategy_, op.name, reason,
                          of(*split)->dim, split->sizes(), remedy_));
}

void Follow::before(const Operator& op) const {
  if (!touches(op.inputs)) return;
  // A tensor compared with itself is equal on every rank.
  bool with_itself = op.inputs.size() == 2 && op.inputs[0].is_same(op.inputs[1]);
  if (op.handle.hasTag(at::Tag::data_dependent_output) && !with_itself)
    refuse(op, "decides by the value of split elements, which differ by rank");
  auto rule = rule_of(op);
  if (!rule && gives_tensors(op)) refuse(op, "is not known to keep split elements apart");
  // Two operands that do not fit are told apart here, before LibTorch complains of their shapes.
  if (rule == &elementwise) elementwise({*this, op, {}});
}

/// Made of numbers alone, cut to a number of elements, or of something that was.
void Follow::mark_what_may_be_share(const Operator& op, std::span<const at::Tensor> outputs) {
  int64_t given = 0;
  for (auto& x : op.inputs) given = std::max(given, x.numel());
  bool made = op.inputs.empty() ||
              std::any_of(op.inputs.begin(), op.inputs.end(), [&](auto& x) { return may_be_share(x); });
  for (auto& x : outputs) {
    bool has_one = std::count(x.sizes().begin(), x.sizes().end(), 1);
    if (has_one && (made || (x.numel() < given && takes_extent(op)))) keep(x, {});
  }
}

void Follow::after(const Operator& op, std::span<const at::Tensor> outputs) {
  if (outputs.empty()) return;
  if (!touches(op.inputs)) {
    if (single_) mark_what_may_be_share(op, outputs);
    return;
  }
  auto rule = rule_of(op);
  auto place = rule ? rule({*this, op, outputs}) : std::nullopt;
  if (!place) return;
  for (auto& output : outputs) {
    if (place->dim >= output.dim() || output.size(place->dim) != place->extent())
      refuse(op, fmt::format("does not keep the split dimension {} whole", place->dim));
    mark(output, *place);
  }
}

void Follow::sweep() {
  std::erase_if(marks_, [](auto& entry) { return entry.second.tensor.expired(); });
  sweep_at_ = 2 * marks_.size() + 256;
}

}  // namespace wanpar
