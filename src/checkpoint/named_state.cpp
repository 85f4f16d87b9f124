#include "checkpoint/named_state.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/error.hpp>

namespace wanpar {

std::string memory_name(const std::string& parameter, const char* field) {
  return fmt::format("optimizer/{}/{}", parameter, field);
}

bool is_like(const at::Tensor& memory, const at::Tensor& parameter) {
  return memory.sizes() == parameter.sizes();
}

NamedState::NamedState(const StateDict& state) {
  add(tensors_, state.tensors);
  for (size_t i = 0; i < tensors_.size(); ++i) number_of_[tensors_[i].tensor.unsafeGetTensorImpl()] = i;
  add(buffers_, state.buffers);
  for (auto* optimizer : state.optimizers) {
    optimizers_.push_back({optimizer, &kind_of(*optimizer)});
    for (auto& group : optimizer->param_groups())
      for (auto& tensor : group.params()) parameter(tensor);
  }
}

/// A tensor with several names is listed under the first.
void NamedState::add(NamedTensors& to, const NamedTensors& from) {
  std::unordered_map<const at::TensorImpl*, bool> seen;
  for (auto& item : from) {
    if (!item.tensor.defined() || !seen.emplace(item.tensor.unsafeGetTensorImpl(), true).second) continue;
    if (!taken_.emplace(item.name, item.tensor.unsafeGetTensorImpl()).second)
      throw UsageError(fmt::format("state_dict: two tensors have the name '{}'", item.name));
    to.push_back(item);
  }
}

const NamedTensor& NamedState::parameter(const at::Tensor& tensor) const {
  if (auto found = number_of_.find(tensor.unsafeGetTensorImpl()); found != number_of_.end())
    return tensors_[found->second];
  throw UsageError(
      fmt::format("state_dict: an optimizer steps a tensor {}{} that is none of the named ones; make it over "
                  "parameters() "
                  "or named_parameters() of what state_dict() is given, or add the tensor by a name to "
                  "StateDict::tensors",
                  c10::toString(tensor.scalar_type()), tensor.sizes()));
}

NamedTensors NamedState::memories() const {
  NamedTensors all;
  for (auto& [optimizer, kind] : optimizers_) {
    auto& memories = optimizer->state();
    for (auto& group : optimizer->param_groups())
      for (auto& tensor : group.params()) {
        auto found = memories.find(tensor.unsafeGetTensorImpl());
        if (found == memories.end()) continue;
        auto& owner = parameter(tensor);
        kind->visit(
            *found->second,
            [&](const char* field, at::Tensor& value) {
              if (!value.defined()) return;
              auto shard = is_like(value, tensor) ? owner.shard : nullptr;
              all.push_back({memory_name(owner.name, field), value, owner.placement, std::move(shard)});
            },
            [&](const char* field, int64_t& value) {
              all.push_back({memory_name(owner.name, field), at::full({}, value, at::kLong)});
            });
      }
  }
  return all;
}

nlohmann::json NamedState::groups() const {
  auto all = nlohmann::json::array();
  for (auto& [optimizer, kind] : optimizers_) {
    auto groups = nlohmann::json::array();
    for (auto& group : optimizer->param_groups()) {
      auto names = nlohmann::json::array();
      for (auto& tensor : group.params()) names.push_back(parameter(tensor).name);
      groups.push_back({{"options", kind->options_of(group.options())}, {"parameters", std::move(names)}});
    }
    all.push_back({{"class", kind->name()}, {"groups", std::move(groups)}});
  }
  return all;
}

}  // namespace wanpar
