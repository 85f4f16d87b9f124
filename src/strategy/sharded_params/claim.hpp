#pragma once
#include <wanpar/module/parameters.hpp>

#include <vector>

namespace wanpar {

/// The right to a module's parameters. Throws Error where another wrapper, or another rank of this process,
/// has one of them.
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
