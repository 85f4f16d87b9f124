#pragma once
#include <wanpar/module/parameters.hpp>

#include <concepts>
#include <vector>

namespace wanpar {

/// Float32 copies of a module's half-precision parameters, for an optimizer: updates too small for bfloat16
/// add up there.
///
///     wanpar::MasterWeights masters(model);
///     torch::optim::AdamW optimizer(masters.parameters());
///     loss.backward();             // in bfloat16
///     masters.take_gradients();
///     optimizer.step();
///     masters.publish();           // the module has the new weights, rounded
///     optimizer.zero_grad();
///
/// To be made when the module has its weights (loaded, wrapped). Only parameters that need a gradient are
/// held. One that is float32 or float64 already is its own master. Nothing here communicates: ranks with
/// equal weights and averaged gradients keep equal masters.
class MasterWeights {
 public:
  template <class Module>
  requires(!std::same_as<Module, NamedTensors> &&
           !std::same_as<Module, MasterWeights>) explicit MasterWeights(Module& module)
      : MasterWeights(wanpar::named_parameters(module)) {}
  explicit MasterWeights(NamedTensors parameters);

  /// What the optimizer is to hold, and for a checkpoint the same under the parameters' names.
  std::vector<at::Tensor> parameters() const;
  const NamedTensors& named_parameters() const { return masters_; }

  /// Adds the module's gradients to those of the masters, in float32, and clears them.
  void take_gradients();

  /// Rounds the masters into the module.
  void publish();

 private:
  NamedTensors masters_;
  std::vector<at::Tensor> parameters_;  // of the module; undefined where the master is the parameter itself
};

}  // namespace wanpar
