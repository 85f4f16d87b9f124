#include <ATen/ATen.h>

#include <optional>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "module/autocast_cache.hpp"
#include "module/check_in_backward.hpp"
#include "strategy/sharded_params/sharded_engine.hpp"

namespace wanpar {
namespace {

/// One forward of a sharded module on one rank.
class ShardedForward : public ForwardScope {
 public:
  explicit ShardedForward(std::shared_ptr<ShardedEngine> engine) : engine_(std::move(engine)) {
    engine_->begin_forward();
    if (!engine_->is_unsharded()) scope_.emplace(engine_->residency());
  }
  ~ShardedForward() override {
    scope_.reset();
    engine_->residency().end_forward();
  }

  /// Casts floating-point arguments to param_dtype.
  void enter(Arguments& arguments) override {
    for (auto& item : arguments.tensors) arguments_.push_back(item.tensor);
    auto dtype = engine_->options().param_dtype;
    if (!dtype) return;
    for (auto& [name, x] : arguments.tensors)
      if (x.defined() && x.is_floating_point()) x = x.to(*dtype);
  }

  /// Clones results that alias unsharded parameters.
  void leave(NamedTensors& results) override {
    engine_->check_parameters();
    for (auto& [name, x] : results) x = engine_->residency().clone_if_aliased(std::move(x));
    if (!at::GradMode::is_enabled()) return;
    Tensors all;
    for (auto& item : results) all.push_back(item.tensor);
    engine_->check_leaves(all, arguments_);
    for (auto& x : all) check_in_backward(x, [engine = engine_] { engine->check_backward(); });
  }

 private:
  std::shared_ptr<ShardedEngine> engine_;
  Tensors arguments_;
  NoAutocastCache no_cache_;
  std::optional<Scope> scope_;
};

}  // namespace

std::unique_ptr<ForwardScope> ShardedParamsStrategy::begin_forward(const Arguments&,
                                                                   std::shared_ptr<void>) const {
  return std::make_unique<ShardedForward>(engine_);
}

}  // namespace wanpar
