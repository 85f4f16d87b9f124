#include "strategy/sequence_parallel/written_attention.hpp"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <limits>
#include <unordered_set>

#include "module/attention_parts.hpp"
#include "module/follow/rules.hpp"

namespace wanpar {
namespace {

bool is_any(const std::string& name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// A number, or a tensor of one element without dimensions.
std::optional<double> number_of(const c10::IValue& value) {
  if (value.isInt()) return static_cast<double>(value.toInt());
  if (value.isDouble()) return value.toDouble();
  if (!value.isTensor()) return {};
  auto& x = value.toTensor();
  bool is_number = x.defined() && x.dim() == 0 && !x.requires_grad() && x.is_cpu() && !x.is_complex();
  return is_number ? std::optional(x.item<double>()) : std::nullopt;
}

std::optional<Scores> with_mask(Scores scores, at::Tensor mask) {
  if (scores.is_softmax || mask.dim() == 0) return {};
  // One rank adds it to scores of their own kind; of half a kind the scores are wider inside.
  const auto kind = scores.call.query.scalar_type();
  if (kind == at::kFloat || kind == at::kDouble) mask = mask.to(kind);
  if (scores.call.mask) mask = *scores.call.mask + mask;
  scores.call.mask = mask;
  return scores;
}

}  // namespace

at::Tensor Promises::stand_in(at::IntArrayRef sizes, const at::TensorOptions& options, Promise promise) {
  auto tensor = at::zeros({1}, options).expand(sizes);
  renew(tensor, std::move(promise));
  return tensor;
}

void Promises::renew(const at::Tensor& stand_in, Promise promise) {
  std::erase_if(entries_, [](auto& entry) { return entry.second.tensor.expired(); });
  entries_.insert_or_assign(stand_in.unsafeGetTensorImpl(),
                            Entry{decltype(Entry::tensor)(stand_in.getIntrusivePtr()), std::move(promise)});
}

const Promise* Promises::of(const at::Tensor& tensor) const {
  if (entries_.empty() || !tensor.defined()) return nullptr;
  auto found = entries_.find(tensor.unsafeGetTensorImpl());
  return found != entries_.end() && !found->second.tensor.expired() ? &found->second.promise : nullptr;
}

bool Promises::touch(std::span<const at::Tensor> tensors) const {
  return !entries_.empty() && std::any_of(tensors.begin(), tensors.end(), [&](auto& x) { return of(x); });
}

std::optional<Scores> extended(const Scores& scores, const Operator& op, size_t position,
                               const Tensors& others) {
  auto result = scores;
  auto& name = op.name;
  const bool is_first = position == 0;
  if (is_any(name,
             {"aten::mul", "aten::mul_", "aten::multiply", "aten::div", "aten::div_", "aten::divide"})) {
    auto factor = number_of(op.arguments[is_first ? 1 : 0]);
    bool divides = name.find("div") != name.npos;
    if (!factor || scores.is_softmax || scores.call.mask || (divides && !is_first)) return {};
    result.call.scale = *scores.call.scale * (divides ? 1 / *factor : *factor);
    return result;
  }
  if (is_any(name, {"aten::add", "aten::add_"})) {
    auto alpha = number_of(op.arguments[2]);
    bool is_mask = op.inputs.size() == 2 && others[1 - position].is_floating_point() && alpha == 1.0;
    return is_mask ? with_mask(result, others[1 - position]) : std::nullopt;
  }
  if (is_any(name, {"aten::masked_fill", "aten::masked_fill_"}) && is_first) {
    // A large number is as good as −inf where a row has anything else, and is the same for all where not.
    auto value = number_of(op.arguments[2]);
    if (!value || *value > -1e8) return {};
    auto mask = at::zeros(others[1].sizes(), scores.call.query.options().requires_grad(false));
    return with_mask(result, mask.masked_fill_(others[1], *value));
  }
  if (is_any(name, {"aten::softmax", "aten::_softmax"})) {
    auto dim = op.arguments[1].toInt();
    if (scores.is_softmax || (dim != -1 && dim != op.inputs[0].dim() - 1)) return {};
    result.is_softmax = true;
    return result;
  }
  if (is_any(name, {"aten::dropout", "aten::dropout_"}))
    return op.arguments[2].toBool() && op.arguments[1].toDouble() > 0 ? std::nullopt : std::optional(result);
  if (is_any(name, {"aten::clone", "aten::contiguous", "aten::alias", "aten::detach"})) return result;
  if (is_any(name, {"aten::to", "aten::type_as"}) && op.inputs.size() <= 2) return result;
  return {};
}

}  // namespace wanpar
