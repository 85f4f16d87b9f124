#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <span>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/data_parallel.hpp>

#include "core/arguments.hpp"
#include "module/gradient_reduction.hpp"
#include "module/times_written.hpp"
#include "strategy/data_parallel/data_engine.hpp"

namespace wanpar {
namespace {

std::vector<int64_t> versions_of(const NamedTensors& tensors) {
  std::vector<int64_t> versions;
  for (auto& [name, tensor] : tensors) versions.push_back(times_written(tensor));
  return versions;
}

/// x, which every rank has alike; its gradient is the mean of theirs.
at::Tensor with_mean_gradient(const at::Tensor& x, const Communicator& group) {
  auto same = x.view_as(x);
  same.register_hook([group](const at::Tensor& gradient) {
    Plain plain;
    return group.all_reduce(gradient, ReduceOp::mean).get();
  });
  return same;
}

/// What one rank does around one call of the module.
class DataForward : public ForwardScope, public GradientReduction {
 public:
  explicit DataForward(std::shared_ptr<DataEngine> engine) : engine_(std::move(engine)) {
    if (innermost<TokenHandler>())
      throw Error(
          "DataParallel: inside of SequenceParallel, which cannot follow its tokens through a gathered "
          "batch; "
          "swap the two: model | sequence_parallel(…) | data_parallel(…)");
    engine_->prepare();
    if (engine_->reduces()) scope_.emplace(*this);
    if (engine_->is_whole()) versions_ = versions_of(engine_->buffers());
  }

  void enter(Arguments& arguments) override {
    Plain plain;
    if (engine_->is_whole()) check_names("DataParallel", ".batch", engine_->options().batch, arguments);
    for (auto& [name, x] : arguments.tensors) {
      if (!x.defined()) continue;
      if (engine_->is_whole()) x = substitute(x, given(name, x));
      arguments_.push_back(x);
    }
  }

  void leave(NamedTensors& results) override {
    scope_.reset();
    std::vector<at::Tensor> found;
    for (auto& [name, x] : results)
      if (x.defined()) found.push_back(x);
    check(found);
    for (auto& [name, x] : results)
      if (x.defined()) x = whole(name, std::move(x));
  }

 private:
  /// What the module is given in the place of an argument.
  at::Tensor given(const std::string& name, at::Tensor x) {
    bool wants_gradient = at::GradMode::is_enabled() && x.requires_grad();
    if (wants_gradient) x = with_mean_gradient(x, engine_->group());
    return engine_->options().batch.name(name) ? samples(name, x) : x;
  }

  /// This rank's samples of an argument. A rank without any is given the first one, so that it takes part in
  /// everything that the module and its backward do.
  at::Tensor samples(const std::string& name, const at::Tensor& x) {
    if (x.dim() == 0)
      throw Error(fmt::format("DataParallel: argument {} is a number and holds no batch; see .batch", name));
    auto& group = engine_->group();
    if (!shares_) {
      total_ = x.size(0);
      shares_ = even_sizes(total_, group.size());
      own_ = (*shares_)[group.rank()];
      begin_ = total(std::span(*shares_).first(group.rank()));
      given_ = std::max(own_, std::min(total_, int64_t{1}));
    }
    if (x.size(0) != total_)
      throw Error(fmt::format("DataParallel: argument {} holds {} samples, another one {}; see .batch", name,
                              x.size(0), total_));
    return x.narrow(0, own_ > 0 ? begin_ : 0, given_);
  }

  /// What every rank finds alike, before the result moves.
  void check(const std::vector<at::Tensor>& results) const {
    if (at::GradMode::is_enabled()) engine_->check_leaves(results, arguments_);
    if (!engine_->is_whole()) return;
    if (!shares_)
      throw Error("DataParallel: every argument that .batch names was left out, so there is no batch");
    for (auto& result : results)
      if (result.dim() == 0 || result.size(0) != given_)
        throw Error(fmt::format(
            "DataParallel: a result of {} for {} samples cannot be gathered; dimension 0 must be the batch",
            result.sizes(), given_));
    auto versions = versions_of(engine_->buffers());
    for (size_t i = 0; i < versions.size(); ++i)
      if (versions[i] != versions_[i])
        throw Error(
            fmt::format("DataParallel: the module wrote its buffer {}, as batch norm does in training, from "
                        "this rank's part of the batch alone; call eval(), or use BatchMode::local",
                        engine_->buffers()[i].name));
  }

  /// What the caller has in the place of a tensor of the result.
  at::Tensor whole(const std::string& name, at::Tensor result) const {
    if (engine_->is_whole()) {
      auto ranks = engine_->group().size();
      auto own = result.narrow(0, 0, own_);
      auto group = name.empty() ? engine_->group() : engine_->group().about("result " + name);
      auto all = group.all_gather(own.detach(), 0, *shares_).get();
      if (at::GradMode::is_enabled() && own.requires_grad()) {
        // Gradients are averaged over the ranks, but here they are to be added up.
        own.register_hook([ranks](const at::Tensor& gradient) {
          Plain plain;
          return gradient * ranks;
        });
        auto end = begin_ + own_;
        all = at::cat({all.narrow(0, 0, begin_), own, all.narrow(0, end, total_ - end)});
      }
      result = std::move(all);
    }
    engine_->watch(result, is_deferred());
    return result;
  }

  std::shared_ptr<DataEngine> engine_;
  std::optional<Scope> scope_;
  std::optional<std::vector<int64_t>> shares_;  // of the batch, by rank
  int64_t total_ = 0, begin_ = 0, own_ = 0, given_ = 0;
  std::vector<int64_t> versions_;  // of the buffers, before the call
  std::vector<at::Tensor> arguments_;
};

}  // namespace

DataParallelStrategy::DataParallelStrategy(Options options, const ModuleTensors& tensors)
    : engine_(std::make_shared<DataEngine>(std::move(options), tensors.parameters, tensors.buffers)) {}

bool DataParallelStrategy::is_alone() const { return engine_->group().size() == 1; }
std::vector<Communicator> DataParallelStrategy::groups() const { return {engine_->group()}; }

std::unique_ptr<ForwardScope> DataParallelStrategy::begin(const Arguments&, std::shared_ptr<void>) const {
  return std::make_unique<DataForward>(engine_);
}

NoSync DataParallelStrategy::no_sync() {
  engine_->pause();
  return NoSync([engine = engine_] { engine->resume(); });
}

std::vector<std::string> DataParallelStrategy::unused_parameters() const { return engine_->unused(); }

}  // namespace wanpar
