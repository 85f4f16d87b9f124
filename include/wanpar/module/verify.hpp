#pragma once
#include <wanpar/module/model.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace wanpar {

/// An operator whose result in the wrapped module differs from that in the bare one.
struct OperatorDifference {
  std::string name;   ///< "aten::gelu"
  int64_t index;      ///< its position in the sequence of operators
  double difference;  ///< maximum absolute difference; infinity if shapes differ
};

struct Verification {
  double difference;                        ///< maximum over the elements of the result, in both passes
  int64_t operators;                        ///< number of operators compared
  std::optional<OperatorDifference> first;  ///< the first that differs by more than the tolerance
  double gradient = 0;                      ///< maximum over the elements of the inputs' gradients
};

/// Collective if the wrapped module is. Compares a wrapped module with the bare one on the same inputs, in
/// two passes: first without gradients, using cached plans, comparing the result; then with gradients, where
/// strategies intercept every operator, comparing the unsharded results of all operators in order, so that an
/// operator which a strategy handles wrongly is reported by name. A difference without an operator means a
/// stale cached plan. The second pass throws Error where a strategy rejects an operator; verify throws Error
/// if the bare module is not reproducible (random numbers, state kept between calls). For debugging only: it
/// keeps every result of the bare module.
///
/// Values differ if their distance exceeds tolerance · max(1, greatest element). Operators are compared as
/// long as both modules call the same ones on the same samples. Gradients are those of inputs that require
/// them, of a differently weighted sum over the elements of the result. After DataParallel or BlockPipeline
/// has split the batch, or has continued with another rank's activation, only the result is compared.
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

/// Keeps the parameters of all inner modules unsharded for as long as the result lives.
template <class Module>
std::vector<std::shared_ptr<void>> parameters_of_innermost(Module& module) {
  std::vector<std::shared_ptr<void>> here;
  if constexpr (requires { module.inner(); }) here = parameters_of_innermost(module.inner());
  if constexpr (requires { module.unshard(); }) here.push_back(module.unshard());
  return here;
}

}  // namespace detail

/// The same, with the innermost module of `wrapped` as the bare one.
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
