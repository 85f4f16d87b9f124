#pragma once
#include <wanpar/checkpoint/state_dict.hpp>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/optimizer_kind.hpp"

namespace wanpar {

/// The tensors of a state, each once, and its optimizers, by name.
class NamedState {
 public:
  /// Throws Error for two tensors of the same name, and for an optimizer over tensors without a name.
  explicit NamedState(const StateDict& state);

  const NamedTensors& tensors() const { return tensors_; }
  const NamedTensors& buffers() const { return buffers_; }

  struct OptimizerState {
    torch::optim::Optimizer* optimizer;
    const OptimizerKind* kind;
  };
  const std::vector<OptimizerState>& optimizers() const { return optimizers_; }
  const NamedTensor& parameter(const at::Tensor& tensor) const;

  /// The optimizers' state, under names like "optimizer/blocks.3.weight/exp_avg".
  NamedTensors memories() const;
  /// The optimizers' classes and groups: options, and names of parameters.
  nlohmann::json groups() const;

 private:
  void add(NamedTensors& to, const NamedTensors& from);

  NamedTensors tensors_, buffers_;
  std::vector<OptimizerState> optimizers_;
  std::unordered_map<const at::TensorImpl*, size_t> number_of_;  // in tensors_
  std::unordered_map<std::string, const at::TensorImpl*> taken_;
};

std::string memory_name(const std::string& parameter, const char* field);

/// Whether an optimizer state tensor has the parameter's shape, and so its sharding.
bool is_like(const at::Tensor& memory, const at::Tensor& parameter);

}  // namespace wanpar
