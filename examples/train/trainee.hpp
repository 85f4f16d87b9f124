#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/module/no_sync.hpp>

namespace wan::train {

/// A module that is called with tensors and gives tensors.
using Network = wanpar::ModelOf<std::vector<at::Tensor>>;

/// What ranks share beside the batch: nothing; gradients and the optimizer's state; the weights as well.
enum class Shard { none, grad, full };

/// The ranks of a training: `shard` ranks hold the parts of one model, and there are `data` such models.
wanpar::Mesh training_mesh(const wanpar::Communicator& world, int64_t data);

/// A network in training on the ranks of a mesh, each of which calls it with samples of its own: gradients
/// are the means over all ranks. All but the constructor's helpers are collective.
///
/// In bfloat16 the network computes with rounded weights, and those that the optimizer steps are float32.
class Trainee {
 public:
  using Tensors = std::vector<at::Tensor>;
  /// Is told of a parameter by its full name, and all its values.
  using Show = std::function<void(const std::string& name, const at::Tensor& whole)>;
  using Source = std::function<at::Tensor(const std::string& name)>;

  virtual ~Trainee() = default;

  virtual Tensors operator()(const Tensors& inputs) = 0;
  /// While it lives, gradients stay on each rank and add up.
  virtual wanpar::NoSync no_sync() = 0;

  /// What the optimizer is to step: whole tensors or this rank's part.
  virtual Tensors parameters() const = 0;
  /// To be called before parameters' gradients are used, and after parameters were changed.
  virtual void take_gradients() {}
  virtual void publish() {}
  /// Scales the gradients to a norm of at most `max`; gives the norm that they had.
  virtual double clip_grad_norm(double max) = 0;

  /// Shows whole what `values`, which are like parameters(), are parts of.
  virtual void show(const Tensors& values, const Show& show) = 0;
  /// Fills `values`, which are like parameters(), from whole tensors.
  virtual void fill(Tensors& values, const Source& source) = 0;

  /// Runs `action` with other values in the place of the parameters.
  void with(const Tensors& values, const std::function<void()>& action);
};

/// Puts the network into the strategies: DataParallel, or ShardedParams with `data` replicas. Parts of names
/// in `keep_float32` are of parameters that stay float32 in bfloat16, where nothing is sharded.
std::unique_ptr<Trainee> make_trainee(Network network, const wanpar::Mesh& mesh, Shard shard,
                                      at::ScalarType dtype,
                                      const std::vector<std::string>& keep_float32 = {});

}  // namespace wan::train
