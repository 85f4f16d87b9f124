#pragma once
#include <wanpar/module/model.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace wanpar {

/// An operator whose result in a wrapped module is not what it is in the bare one.
struct OperatorDifference {
  std::string name;   ///< "aten::gelu"
  int64_t index;      ///< how many operators came before it
  double difference;  ///< the greatest of an element, or infinity where shapes differ
};

struct Verification {
  double difference;                        ///< the greatest of an element of either pass's result
  int64_t operators;                        ///< how many operators' results were compared
  std::optional<OperatorDifference> first;  ///< the first that differs by more than the tolerance
  double gradient = 0;                      ///< the greatest of an element of an input's gradient
};

/// Collective where the wrapped module is. Runs a wrapped module twice beside the bare one with the same
/// inputs: first without gradients, by what it remembers of earlier passes, and compares the result; then
/// with gradients, where strategies look at every operator, and compares the results of all operators, in
/// order, joined over the ranks where a strategy has split them; so what a strategy fails to carry is found
/// by its name. A difference with no operator to it is one of what was remembered. The second pass throws
/// Error where a strategy refuses, and so does verify where the bare module gives something else when it is
/// called again, by random numbers or by what it keeps. For debugging: it keeps every result of the bare
/// module.
///
/// Two values differ when they are further apart than tolerance times the greatest element, or than the
/// tolerance where that is below one. Operators are compared for as long as both modules call the same ones
/// on the same samples. Gradients are those of inputs that ask for them, of a sum that weighs each element of
/// the result differently. Behind the point where DataParallel or BlockPipeline cuts the batch, or goes on
/// with another rank's activation, it is the result alone.
Verification verify(Model wrapped, Model bare, const std::vector<at::Tensor>& inputs,
                    double tolerance = 1e-4);

namespace detail {

template <class Module>
auto& innermost(Module& module) {
  if constexpr (requires { module.inner(); })
    return innermost(module.inner());
  else
    return module;
}

/// Keeps the innermost module's parameters where it can read them, for as long as it lives.
template <class Module>
std::vector<std::shared_ptr<void>> parameters_of_innermost(Module& module) {
  std::vector<std::shared_ptr<void>> here;
  if constexpr (requires { module.inner(); }) here = parameters_of_innermost(module.inner());
  if constexpr (requires { module.unshard(); }) here.push_back(module.unshard());
  return here;
}

}  // namespace detail

/// The same for a wrapped module whose innermost one can be called by itself.
template <class Wrapped>
requires requires(Wrapped w) { w.inner(); }
Verification verify(Wrapped& wrapped, const std::vector<at::Tensor>& inputs, double tolerance = 1e-4) {
  Model bare = [&](const std::vector<at::Tensor>& given) {
    auto here = detail::parameters_of_innermost(wrapped);
    return Model(detail::innermost(wrapped)).call(given);
  };
  return verify(Model(wrapped), bare, inputs, tolerance);
}

}  // namespace wanpar
