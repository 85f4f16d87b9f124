#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <fmt/format.h>

#include <unordered_set>
#include <wanpar/core/error.hpp>
#include <wanpar/module/master_weights.hpp>

#include "module/deferred.hpp"

namespace wanpar {

MasterWeights::MasterWeights(NamedTensors parameters) {
  std::unordered_set<at::TensorImpl*> seen;
  for (auto& [name, tensor] : parameters) {
    if (!tensor.requires_grad() || !seen.insert(tensor.unsafeGetTensorImpl()).second) continue;
    if (is_deferred(tensor))
      throw UsageError(fmt::format(
          "MasterWeights: parameter '{}' has no memory, as one that is sharded or was constructed deferred; "
          "ShardedParams keeps shards in float32 itself where .param_dtype is the narrow one",
          name));
    bool is_half = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
    masters_.push_back({name, is_half ? tensor.detach().to(at::kFloat).requires_grad_() : tensor});
    parameters_.push_back(is_half ? tensor : at::Tensor());
  }
}

std::vector<at::Tensor> MasterWeights::parameters() const {
  std::vector<at::Tensor> tensors;
  for (auto& master : masters_) tensors.push_back(master.tensor);
  return tensors;
}

void MasterWeights::take_gradients() {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < masters_.size(); ++i) {
    if (!parameters_[i].defined() || !parameters_[i].grad().defined()) continue;
    auto& mine = masters_[i].tensor.mutable_grad();
    auto& given = parameters_[i].mutable_grad();
    if (mine.defined())
      mine.add_(given);
    else
      mine = given.to(at::kFloat);
    given.reset();
  }
}

void MasterWeights::publish() {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < masters_.size(); ++i)
    if (parameters_[i].defined()) parameters_[i].copy_(masters_[i].tensor);
}

}  // namespace wanpar
