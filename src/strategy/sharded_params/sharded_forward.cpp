#include <ATen/ATen.h>

#include <optional>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "module/autocast_cache.hpp"
#include "strategy/sharded_params/sharded_engine.hpp"

namespace wanpar::detail {

struct ShardedForward::State {
  explicit State(std::shared_ptr<ShardedEngine> e) : engine(std::move(e)) {
    engine->residency().begin_forward();
    scope.emplace(engine->residency());
  }
  ~State() {
    scope.reset();
    engine->residency().end_forward();
  }

  std::shared_ptr<ShardedEngine> engine;
  NoAutocastCache no_cache;
  std::optional<Scope> scope;
};

ShardedForward::ShardedForward(std::shared_ptr<ShardedEngine> engine)
    : state_(std::make_unique<State>(std::move(engine))) {}

ShardedForward::~ShardedForward() = default;

void ShardedForward::rethrow() { Scope::rethrow(); }

at::Tensor ShardedForward::cast(const at::Tensor& x) {
  auto dtype = state_->engine->options().param_dtype;
  return dtype && x.defined() && x.is_floating_point() ? x.to(*dtype) : x;
}

at::Tensor ShardedForward::keep(at::Tensor result) {
  return state_->engine->residency().leave(std::move(result));
}

}  // namespace wanpar::detail
