#pragma once
#include <ATen/core/dispatch/Dispatcher.h>

#include <span>
#include <vector>

namespace wanpar {

class SplitCall;

/// What is known of an operator, found out once.
struct SplitFacts {
  bool (*rule)(SplitCall&) = nullptr;  ///< how it runs on parts; LibTorch's own operators alone have one
  std::vector<size_t> written;         ///< arguments that it writes to
  std::vector<int> returns_argument;   ///< of each result: which written argument it is; −1
  bool is_elementwise = false;         ///< each element for itself, inputs broadcast
  bool keeps_strides = false;          ///< what it gives lies in memory as what it was given
  bool is_view = false;                ///< what it gives may share memory with its first argument
  bool is_composite = false;           ///< one of LibTorch's, made of other operators, which autograd sees

  bool writes(size_t argument) const;
};

const SplitFacts& split_facts(const c10::OperatorHandle& op);

/// Whether one that may draw random numbers does so with these arguments.
bool draws(const c10::OperatorHandle& op, std::span<const c10::IValue> arguments);

}  // namespace wanpar
