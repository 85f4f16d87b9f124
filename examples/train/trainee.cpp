#include "train/trainee.hpp"

#include <ATen/ATen.h>
#include <torch/nn/utils/clip_grad.h>

#include <algorithm>
#include <utility>
#include <wanpar/module/master_weights.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

namespace wan::train {
namespace {

using Tensors = Trainee::Tensors;

void copy_all(const Tensors& from, Tensors to) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < to.size(); ++i) to[i].copy_(from[i]);
}

Tensors clones(const Tensors& tensors) {
  Tensors copies;
  for (const auto& tensor : tensors) copies.push_back(tensor.detach().clone());
  return copies;
}

void round(const Network& network, at::ScalarType dtype, const std::vector<std::string>& keep_float32) {
  for (auto& [name, tensor] : network.named_parameters()) {
    const auto is_kept = [&, &name = name](const std::string& part) {
      return name.find(part) != std::string::npos;
    };
    if (std::any_of(keep_float32.begin(), keep_float32.end(), is_kept)) continue;
    auto parameter = tensor;
    const bool is_trained = parameter.requires_grad();
    parameter.set_requires_grad(false);
    parameter.set_data(parameter.to(dtype));
    parameter.set_requires_grad(is_trained);
  }
}

/// Every rank has the whole network.
class Replicated : public Trainee {
 public:
  Replicated(Network network, const wanpar::Communicator& world)
      : model_(std::move(network),
               {.group = world, .mode = wanpar::BatchMode::local, .find_unused_parameters = true}),
        masters_(model_) {}

  Tensors operator()(const Tensors& inputs) override { return Network(model_).call(inputs); }
  wanpar::NoSync no_sync() override { return model_.no_sync(); }
  Tensors parameters() const override { return masters_.parameters(); }
  void take_gradients() override { masters_.take_gradients(); }
  void publish() override { masters_.publish(); }
  double clip_grad_norm(double max) override {
    return torch::nn::utils::clip_grad_norm_(masters_.parameters(), max);
  }
  void show(const Tensors& values, const Show& show) override {
    for (size_t i = 0; i < values.size(); ++i) show(masters_.named_parameters()[i].name, values[i]);
  }
  void fill(Tensors& values, const Source& source) override {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < values.size(); ++i) values[i].copy_(source(masters_.named_parameters()[i].name));
  }

 private:
  wanpar::DataParallel<Network> model_;
  wanpar::MasterWeights masters_;  // of the weights of rank 0
};

/// Every rank has a flat part of each unit of parameters.
class Sharded : public Trainee {
 public:
  explicit Sharded(wanpar::ShardedParams<Network> model) : model_(std::move(model)) {}

  Tensors operator()(const Tensors& inputs) override { return Network(model_).call(inputs); }
  wanpar::NoSync no_sync() override { return model_.no_sync(); }
  Tensors parameters() const override { return model_.parameters(); }
  double clip_grad_norm(double max) override { return model_.clip_grad_norm(max); }
  void show(const Tensors& values, const Show& show) override {
    with(values, [&] { model_.each_parameter(show); });
  }
  void fill(Tensors& values, const Source& source) override {
    // The wrapper knows which elements are whose, so its own shards are filled and read.
    const auto kept = clones(parameters());
    model_.load([&](const std::string& name, int64_t begin, int64_t end) {
      return source(name).flatten().narrow(0, begin, end - begin).to(parameters().front().options());
    });
    const auto filled = clones(parameters());
    copy_all(kept, parameters());
    copy_all(filled, values);
  }

 private:
  wanpar::ShardedParams<Network> model_;
};

}  // namespace

wanpar::Mesh training_mesh(const wanpar::Communicator& world, int64_t data) {
  return wanpar::Mesh(world, {{"data", data}, {"shard", world.size() / data}});
}

void Trainee::with(const Tensors& values, const std::function<void()>& action) {
  const auto kept = clones(parameters());
  copy_all(values, parameters());
  publish();
  const auto restore = [&] {
    copy_all(kept, parameters());
    publish();
  };
  try {
    action();
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

std::unique_ptr<Trainee> make_trainee(Network network, const wanpar::Mesh& mesh, Shard shard,
                                      at::ScalarType dtype, const std::vector<std::string>& keep_float32) {
  for (auto& [name, tensor] : network.named_parameters()) auto trained = tensor.set_requires_grad(true);
  const bool is_half = dtype == at::kBFloat16;
  if (shard == Shard::none) {
    if (is_half) round(network, dtype, keep_float32);
    return std::make_unique<Replicated>(std::move(network), mesh.world());
  }
  return std::make_unique<Sharded>(wanpar::ShardedParams<Network>(
      std::move(network),
      {.group = mesh["shard"],
       .replicate = mesh["data"],
       .sharding = shard == Shard::full ? wanpar::Sharding::full_shard : wanpar::Sharding::shard_grad_op,
       .param_dtype = is_half ? std::optional(dtype) : std::nullopt,
       .reduce_dtype = is_half ? std::optional(at::kFloat) : std::nullopt,
       .sync_module_states = true}));
}

}  // namespace wan::train
