#include <ATen/ATen.h>

#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "module/gradient_norm.hpp"
#include "strategy/sharded_params/sharded_engine.hpp"

namespace wanpar {
namespace detail {

std::shared_ptr<ShardedEngine> make_sharded_engine(ShardedParamsOptions options, NamedTensors parameters,
                                                   NamedTensors buffers) {
  return std::make_shared<ShardedEngine>(std::move(options), parameters, buffers);
}

bool is_whole(const ShardedEngine& engine) { return engine.is_whole(); }

}  // namespace detail

NoSync ShardedParamsBase::no_sync() const {
  engine_->gradients().syncs = false;
  return NoSync([engine = engine_] { engine->gradients().syncs = true; });
}

std::vector<at::Tensor> ShardedParamsBase::parameters() const {
  std::vector<at::Tensor> shards;
  engine_->each_flat([&](auto& flat) {
    if (flat.is_trained()) shards.push_back(flat.shard());
  });
  return shards;
}

double ShardedParamsBase::clip_grad_norm(double max, const Communicator& stages) {
  std::vector<at::Tensor> gradients;
  engine_->each_flat([&](auto& flat) {
    for (auto& item : flat.items()) gradients.push_back(flat.own_gradient(item));
  });
  auto norm = global_norm(gradients, engine_->options().group, stages);
  scale_to_norm(parameters(), norm, max);
  return norm;
}

std::shared_ptr<void> ShardedParamsBase::whole() {
  if (engine_->is_whole()) return {};
  Plain plain;
  engine_->residency().release_all();
  engine_->residency().bring_all();
  return {nullptr, [engine = engine_](void*) { engine->residency().release_all(); }};
}

std::vector<std::string> ShardedParamsBase::units() const {
  std::vector<std::string> names;
  for (auto& unit : engine_->units()) names.push_back(unit->name);
  return names;
}

ParameterMemory ShardedParamsBase::memory() const {
  int64_t shards = 0;
  engine_->each_flat([&](auto& flat) { shards += static_cast<int64_t>(flat.shard().nbytes()); });
  auto& residency = engine_->residency();
  return {shards, residency.resident_bytes(), residency.peak_bytes()};
}

void ShardedParamsBase::reset_peak() { engine_->residency().reset_peak(); }

}  // namespace wanpar
