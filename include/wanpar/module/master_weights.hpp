#pragma once
#include <wanpar/module/parameters.hpp>

#include <concepts>
#include <vector>

namespace wanpar {

/// Float32 master weights of a module's half-precision parameters, for the optimizer: updates too small for
/// bfloat16 accumulate there.
///
///     wanpar::MasterWeights masters(model);
///     torch::optim::AdamW optimizer(masters.parameters());
///     loss.backward();             // in bfloat16
///     masters.take_gradients();
///     optimizer.step();
///     masters.publish();           // the module has the new weights, rounded
///     optimizer.zero_grad();
///
/// Construct it when the module has its weights (loaded, wrapped). It holds only parameters that require a
/// gradient; one that is already float32 or float64 is its own master. It does not communicate: ranks with
/// equal weights and averaged gradients keep equal masters.
class MasterWeights {
 public:
  template <class Module>
  requires(!std::same_as<Module, NamedTensors> &&
           !std::same_as<Module, MasterWeights>) explicit MasterWeights(Module& module)
      : MasterWeights(wanpar::named_parameters(module)) {}
  explicit MasterWeights(NamedTensors parameters);

  /// The masters to pass to the optimizer; with the parameters' names for a checkpoint.
  std::vector<at::Tensor> parameters() const;
  const NamedTensors& named_parameters() const { return masters_; }

  /// Accumulates the module's gradients into the masters', in float32, and clears them.
  void take_gradients();

  /// Copies the masters to the module, rounded to its dtype.
  void publish();

 private:
  NamedTensors masters_;
  std::vector<at::Tensor> parameters_;  // of the module; undefined if the parameter is its own master
};

}  // namespace wanpar
