#pragma once
#include <wanpar/module/parameters.hpp>

#include <vector>

namespace wanpar {

/// RAII: exclusive ownership of a module's parameters by one sharding wrapper. Throws Error if another
/// wrapper, or another thread rank, owns one of them.
class ParameterOwnership {
 public:
  explicit ParameterOwnership(const NamedTensors& parameters);
  ~ParameterOwnership();
  ParameterOwnership(const ParameterOwnership&) = delete;
  ParameterOwnership& operator=(const ParameterOwnership&) = delete;

 private:
  void release();
  std::vector<at::Tensor> mine_;
};

}  // namespace wanpar
