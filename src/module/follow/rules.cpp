#include "module/follow/rules.hpp"

#include <ATen/core/dispatch/Dispatcher.h>

namespace wanpar {

const at::Tensor& Step::tensor(size_t i) const {
  static const at::Tensor none;
  return i < op.arguments.size() && argument(i).isTensor() ? argument(i).toTensor() : none;
}

const SamplePlacement* Step::place(size_t i) const { return follow.of(tensor(i)); }

bool Step::fits(const at::Tensor& x, int64_t dim, const SamplePlacement& split) {
  const auto extent = x.size(dim);
  if (extent != 1 && extent != split.global_extent()) return false;
  if (extent == split.global_extent() && extent != 1)
    for (size_t i = 0; i < op.inputs.size(); ++i)
      if (op.inputs[i].is_same(x)) slices.push_back({i, dim, split});
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

std::optional<std::vector<int64_t>> Step::dim_list(std::string_view name, int64_t dims) const {
  auto* value = named(name);
  if (!value || value->isNone()) return {};
  auto list = value->isInt() ? std::vector<int64_t>{value->toInt()} : value->toIntVector();
  for (auto& d : list) d = d < 0 ? d + dims : d;
  return list;
}

}  // namespace wanpar
