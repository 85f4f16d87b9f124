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
#include "module/gradient_averaging.hpp"
#include "module/times_written.hpp"
#include "strategy/data_parallel/data_engine.hpp"

namespace wanpar::detail {
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

}  // namespace

struct DataPass::State {
  explicit State(std::shared_ptr<DataEngine> e) : engine(std::move(e)) {
    if (engine->reduces()) averaging.emplace();
  }

  bool lists(size_t arg) const {
    auto& batch = engine->options().batch;
    return std::find(batch.begin(), batch.end(), static_cast<int64_t>(arg)) != batch.end();
  }

  /// This rank's samples of an argument. A rank without any is given the first one, so that it takes part in
  /// everything that the module and its backward do.
  at::Tensor samples(size_t arg, const at::Tensor& x) {
    if (x.dim() == 0)
      throw Error(fmt::format("DataParallel: argument {} is a number and holds no batch; see .batch", arg));
    auto& group = engine->group();
    if (!shares) {
      total = x.size(0);
      shares = even_sizes(total, group.size());
      own = (*shares)[group.rank()];
      begin = wanpar::total(std::span(*shares).first(group.rank()));
      given = std::max(own, std::min(total, int64_t{1}));
    }
    if (x.size(0) != total)
      throw Error(fmt::format("DataParallel: argument {} holds {} samples, another one {}; see .batch", arg,
                              x.size(0), total));
    return in_place_of(x, x.narrow(0, own > 0 ? begin : 0, given));
  }

  std::shared_ptr<DataEngine> engine;
  std::optional<GradientAveraging> averaging;
  std::optional<std::vector<int64_t>> shares;  // of the batch, by rank
  int64_t total = 0, begin = 0, own = 0, given = 0;
  std::vector<int64_t> versions;  // of the buffers, before the call
  std::vector<at::Tensor> arguments, results;
};

DataPass::DataPass(std::shared_ptr<DataEngine> engine, size_t arguments) {
  if (within("SequenceParallel"))
    throw Error(
        "DataParallel: inside of SequenceParallel, which cannot follow its tokens through a gathered batch; "
        "swap the two: model | sequence_parallel(…) | data_parallel(…)");
  auto& options = engine->options();
  for (auto arg : options.batch)
    if (engine->is_whole() && arg >= static_cast<int64_t>(arguments))
      throw Error(fmt::format("DataParallel: .batch names argument {}, but the module was called with {}",
                              arg, arguments));
  engine->prepare();
  state_ = std::make_unique<State>(std::move(engine));
  if (state_->engine->is_whole()) state_->versions = versions_of(state_->engine->buffers());
}

DataPass::~DataPass() = default;

at::Tensor DataPass::tensor(size_t arg, const at::Tensor& x) {
  auto& engine = *state_->engine;
  if (!x.defined()) return x;
  auto given = x;
  if (engine.is_whole()) {
    if (at::GradMode::is_enabled() && x.requires_grad()) given = with_mean_gradient(x, engine.group());
    if (state_->lists(arg)) given = state_->samples(arg, given);
  }
  state_->arguments.push_back(given);
  return given;
}

void DataPass::other(size_t arg) {
  if (state_->engine->is_whole() && state_->lists(arg))
    throw Error(fmt::format("DataParallel: argument {} is no tensor and holds no batch; see .batch", arg));
}

void DataPass::look_at(const at::Tensor& result) {
  if (result.defined()) state_->results.push_back(result);
}

/// What every rank finds alike, before the result moves.
void DataPass::check() {
  auto& engine = *state_->engine;
  if (at::GradMode::is_enabled()) engine.check_leaves(state_->results, state_->arguments);
  if (!engine.is_whole()) return;
  if (!state_->shares)
    throw Error("DataParallel: every argument that .batch names was left out, so there is no batch");
  for (auto& result : state_->results)
    if (result.dim() == 0 || result.size(0) != state_->given)
      throw Error(fmt::format(
          "DataParallel: a result of {} for {} samples cannot be gathered; dimension 0 must be the batch",
          result.sizes(), state_->given));
  auto versions = versions_of(engine.buffers());
  for (size_t i = 0; i < versions.size(); ++i)
    if (versions[i] != state_->versions[i])
      throw Error(
          fmt::format("DataParallel: the module wrote its buffer {}, as batch norm does in training, from "
                      "this rank's part of the batch alone; call eval(), or use BatchMode::local",
                      engine.buffers()[i].name));
}

at::Tensor DataPass::whole(at::Tensor result) {
  auto& engine = *state_->engine;
  if (!result.defined()) return result;
  if (engine.is_whole()) {
    auto ranks = engine.group().size();
    auto own = result.narrow(0, 0, state_->own);
    auto all = engine.group().all_gather(own.detach(), 0, *state_->shares).get();
    if (at::GradMode::is_enabled() && own.requires_grad()) {
      // Gradients are averaged over the ranks, but here they are to be added up.
      own.register_hook([ranks](const at::Tensor& gradient) {
        Plain plain;
        return gradient * ranks;
      });
      auto end = state_->begin + state_->own;
      all = at::cat({all.narrow(0, 0, state_->begin), own, all.narrow(0, end, state_->total - end)});
    }
    result = std::move(all);
  }
  engine.watch(result, state_->averaging && state_->averaging->in_parts());
  return result;
}

std::shared_ptr<DataEngine> make_data_engine(DataParallelOptions options, NamedTensors parameters,
                                             NamedTensors buffers) {
  return std::make_shared<DataEngine>(std::move(options), std::move(parameters), std::move(buffers));
}

bool is_alone(const DataEngine& engine) { return engine.group().size() == 1; }
NoSync no_sync(std::shared_ptr<DataEngine> engine) {
  engine->pause();
  return NoSync([engine = std::move(engine)] { engine->resume(); });
}

std::vector<std::string> unused_parameters(const DataEngine& engine) { return engine.unused(); }

}  // namespace wanpar::detail
