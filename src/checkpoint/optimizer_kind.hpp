#pragma once
#include <torch/optim/optimizer.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace wanpar {

/// A LibTorch optimizer class: access to its options and its state of a parameter, by LibTorch's names.
class OptimizerKind {
 public:
  using Options = torch::optim::OptimizerOptions;
  using Memory = torch::optim::OptimizerParamState;
  using VisitTensor = std::function<void(const char* name, at::Tensor& value)>;
  using VisitCount = std::function<void(const char* name, int64_t& value)>;

  virtual ~OptimizerKind() = default;
  virtual const char* name() const = 0;
  virtual nlohmann::json options_of(const Options& options) const = 0;
  /// Throws Error, starting with `where`, for options of another class.
  virtual std::unique_ptr<Options> options_from(const nlohmann::json& json,
                                                const std::string& where) const = 0;
  virtual std::unique_ptr<Memory> new_memory() const = 0;
  virtual void visit(Memory& memory, const VisitTensor& tensor, const VisitCount& count) const = 0;
};

/// Throws Error for an unsupported class.
const OptimizerKind& kind_of(const torch::optim::Optimizer& optimizer);

}  // namespace wanpar
