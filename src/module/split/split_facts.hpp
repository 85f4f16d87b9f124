#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include <span>
#include <vector>

namespace wanpar {

class SplitCall;

/// Facts about an operator, computed once.
struct SplitFacts {
  bool (*rule)(SplitCall&) = nullptr;  ///< its sharding rule; only LibTorch's operators have one
  std::vector<size_t> written;         ///< indices of arguments that it writes to
  std::vector<int> returns_argument;  ///< of each output: the written argument that it aliases; −1 for none
  bool is_elementwise = false;        ///< elementwise, with broadcasting
  bool keeps_strides = false;         ///< the output has the strides of the input
  bool is_view = false;               ///< the output may alias the first argument
  bool is_composite = false;          ///< a composite operator of LibTorch, which autograd sees decomposed

  bool writes(size_t argument) const;
};

const SplitFacts& split_facts(const c10::OperatorHandle& op);

/// Whether an operator that can draw random numbers does so with these arguments.
bool draws(const c10::OperatorHandle& op, std::span<const c10::IValue> arguments);

}  // namespace wanpar
