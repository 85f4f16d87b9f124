#include <ATen/ATen.h>

#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "module/gradient_norm.hpp"
#include "module/shard_tensor.hpp"
#include "strategy/sharded_params/sharded_engine.hpp"

namespace wanpar {
ShardedParamsStrategy::ShardedParamsStrategy(Options options, const ModuleTensors& tensors)
    : engine_(std::make_shared<ShardedEngine>(std::move(options), tensors.parameters, tensors.buffers)) {}

bool ShardedParamsStrategy::is_alone() const {
  engine_->check_values();
  return engine_->is_alone();
}

std::vector<Communicator> ShardedParamsStrategy::groups() const { return engine_->placement()->reduced_over; }

void ShardedParamsStrategy::set_placement(NamedTensors& parameters) const {
  for (auto& item : parameters) item.placement = engine_->placement();
}

void ShardedParamsStrategy::refuse_to() {
  throw UsageError(
      "ShardedParams: to() cannot move shards, nor change their dtype; move the module before it is wrapped, "
      "or set "
      ".param_dtype for the dtype that it computes in");
}

NoSync ShardedParamsStrategy::no_sync() const {
  engine_->gradients().pause();
  return NoSync([engine = engine_] { engine->gradients().resume(); });
}

NamedTensors ShardedParamsStrategy::named_shards() const {
  NamedTensors shards;
  engine_->each_flat([&](auto& flat) {
    for (auto& shard : flat.shards())
      shards.push_back({shard.names[0], shard.tensor, engine_->placement(), shard.metadata});
  });
  return shards;
}

double ShardedParamsStrategy::clip_grad_norm(double max, const Communicator& stages) {
  std::vector<at::Tensor> gradients;
  engine_->each_flat([&](auto& flat) {
    for (auto& shard : flat.shards()) gradients.push_back(local_of(shard.tensor.grad()));
  });
  auto norm = global_norm(gradients, engine_->options().group, stages);
  scale_to_norm(tensors_in(named_shards()), norm, max);
  return norm;
}

std::shared_ptr<void> ShardedParamsStrategy::unshard() {
  engine_->check_values();
  if (engine_->is_unsharded()) return {};
  NoInterceptGuard no_intercept;
  engine_->residency().reshard_all();
  engine_->residency().unshard_all();
  return {nullptr, [engine = engine_](void*) {
            NoInterceptGuard no_intercept;
            engine->residency().write_back_all();
            engine->residency().reshard_all();
          }};
}

std::vector<std::string> ShardedParamsStrategy::units() const {
  std::vector<std::string> names;
  for (auto& unit : engine_->units()) names.push_back(unit->name);
  return names;
}

ParameterMemory ShardedParamsStrategy::memory() const {
  int64_t shards = 0;
  engine_->each_flat([&](auto& flat) { shards += flat.bytes(); });
  auto& residency = engine_->residency();
  return {shards, residency.resident_bytes(), residency.peak_bytes()};
}

void ShardedParamsStrategy::reset_peak() { engine_->residency().reset_peak(); }

}  // namespace wanpar
