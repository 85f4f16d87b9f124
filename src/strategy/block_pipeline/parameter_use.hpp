#pragma once
#include <wanpar/module/interceptor.hpp>
#include <wanpar/module/parameters.hpp>

#include <deque>
#include <unordered_map>

#include "strategy/block_pipeline/pipeline_stack.hpp"

namespace wanpar {

/// Which parameters a pass with gradients uses, in blocks and outside of them: looked at in a first pass, to
/// refuse those whose gradients would not be whole.
class ParameterUse {
 public:
  /// From now on operators are looked at, or no more; what was seen is forgotten.
  void examine(bool on);
  bool is_examining() const { return is_examining_; }

  /// A leaf that is no parameter.
  void ignore(const at::Tensor& leaf);
  void note(const Operator& op, bool is_inside);

  /// What becomes of the gradients of a parameter that several stages use, where the module lists it.
  enum class Shared { refused, summed };
  /// Throws Error for parameters whose gradients would not be whole on `stage`.
  void check(const NamedTensors& parameters, const std::deque<PipelineStack>& stacks, int stage,
             Shared shared) const;

 private:
  bool is_examining_ = false;
  std::unordered_map<const at::TensorImpl*, at::Tensor> inside_, outside_, ignored_;
};

}  // namespace wanpar
