#include <ATen/core/ivalue.h>
#include <fmt/format.h>

#include <wanpar/module/model.hpp>

namespace wanpar::detail {

void refuse_count(size_t count) {
  throw UsageError(fmt::format("Model: the module cannot be called with {} arguments", count));
}

void refuse_function(const char* what) {
  throw UsageError(
      fmt::format("Model: {}() of a function, of whose inside nothing is known; call it on the modules that "
                  "the function uses, or wrap the module itself",
                  what));
}

std::vector<at::Tensor> tensors_of_values(const Values& values) {
  std::vector<at::Tensor> tensors;
  for (auto& value : values) tensors.push_back(value.as<at::Tensor>());
  return tensors;
}

std::vector<c10::IValue> ivalues_of(const Values& values) {
  std::vector<c10::IValue> list;
  for (auto& value : values) list.push_back(value.as<c10::IValue>());
  return list;
}

}  // namespace wanpar::detail
