#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <unordered_set>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/data_parallel.hpp>

#include "module/claim.hpp"
#include "module/leaves.hpp"
#include "module/one_backward.hpp"
#include "module/same_module.hpp"
#include "module/times_written.hpp"
#include "strategy/buckets.hpp"
#include "strategy/gradient_reducer.hpp"

namespace wanpar {
namespace {

/// Each tensor once, tied ones under their first name.
NamedTensors distinct(const NamedTensors& tensors) {
  NamedTensors once;
  std::unordered_set<at::TensorImpl*> seen;
  for (auto& item : tensors)
    if (item.tensor.defined() && seen.insert(item.tensor.unsafeGetTensorImpl()).second) once.push_back(item);
  return once;
}

bool is_claimed(const NamedTensor& item) { return claimed(item.tensor).has_value(); }

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

/// One rank's side of the strategy.
class DataEngine {
 public:
  DataEngine(DataParallelOptions options, NamedTensors parameters, NamedTensors buffers)
      : options_(std::move(options)), parameters_(distinct(parameters)), buffers_(distinct(buffers)) {
    if (group().size() == 1) return;
    check_options();
    auto states = parameters_;
    states.insert(states.end(), buffers_.begin(), buffers_.end());
    check_same_module("DataParallel", {group()}, states);
    std::erase_if(states, is_claimed);
    if (options_.sync_module_states) broadcast_values(group(), states, options_.bucket_bytes);
  }
  ~DataEngine() {
    if (reducer_) reducer_->release();
  }
  DataEngine(const DataEngine&) = delete;
  DataEngine& operator=(const DataEngine&) = delete;

  const DataParallelOptions& options() const { return options_; }
  const Communicator& group() const { return options_.group; }
  bool is_whole() const { return options_.mode == BatchMode::whole; }
  const NamedTensors& buffers() const { return buffers_; }

  void pause() { ++pauses_; }
  void resume() { --pauses_; }

  /// Before the module is called.
  void prepare() {
    bool shares_buffers = !is_whole() && options_.broadcast_buffers && pauses_ == 0 && !buffers_.empty();
    if (shares_buffers) broadcast_values(group(), buffers_, options_.bucket_bytes);
    if (!at::GradMode::is_enabled()) return;

    auto trained = parameters_;
    std::erase_if(trained, [](auto& item) { return !item.tensor.requires_grad(); });
    leave_sharded(trained);
    if (reducer_ ? reducer_->serves(trained) : trained.empty()) return;
    if (reducer_) reducer_->release();
    reducer_.reset();
    leaves_are_known_ = false;
    if (!trained.empty())
      reducer_ = std::make_shared<GradientReducer>(
          group(), std::move(trained),
          GradientReducer::Options{options_.bucket_bytes, options_.find_unused_parameters});
  }

  /// Is every gradient that the results need one of the module's parameters or of the arguments? Asked in the
  /// first forward that has a gradient.
  void check_leaves(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments) {
    bool needs_gradient =
        std::any_of(results.begin(), results.end(), [](auto& x) { return x.requires_grad(); });
    if (leaves_are_known_ || !needs_gradient) return;
    std::unordered_set<at::TensorImpl*> known;
    for (auto& item : parameters_) known.insert(item.tensor.unsafeGetTensorImpl());
    for (auto& leaf : leaves_of(results, arguments))
      if (leaf.numel() > 0 && !known.contains(leaf.unsafeGetTensorImpl()))
        throw Error(fmt::format(
            "DataParallel: the result depends on a tensor {}{} that needs a gradient and is no parameter of "
            "the module, so no rank would share it; wrap the module itself, not a function around it",
            c10::toString(leaf.scalar_type()), leaf.sizes()));
    leaves_are_known_ = true;
  }

  /// Whether the backward of a forward that begins now averages gradients.
  bool reduces() const { return reducer_ && pauses_ == 0 && at::GradMode::is_enabled(); }

  void watch(at::Tensor& result) {
    if (reducer_) reducer_->watch(result, pauses_ == 0);
  }

  std::vector<std::string> unused() const {
    return reducer_ ? reducer_->unused() : std::vector<std::string>{};
  }

 private:
  /// Gradients of sharded parameters go to who shards them, and are averaged there. That must be over our
  /// ranks too: ranks that average together agree on a number that one of them drew.
  void leave_sharded(NamedTensors& trained) {
    auto sharded = std::find_if(trained.begin(), trained.end(), is_claimed);
    if (sharded == trained.end()) return;
    if (!averages_are_known_) {
      auto number = at::tensor({static_cast<int64_t>(std::random_device{}())}, at::kLong);
      const auto averaged_over = claimed(sharded->tensor).value();
      for (auto& averaging : averaged_over)
        number = averaging.all_reduce(number.to(averaging.device()), ReduceOp::max).get();
      auto all = group().all_gather(number.to(group().device())).get();
      if (!all.eq(all[0]).all().item<bool>())
        throw Error(
            "DataParallel: the parameters are sharded, and their gradients are not averaged over these "
            "ranks; give this group to ShardedParams too, as .group or as .replicate");
      averages_are_known_ = true;
    }
    std::erase_if(trained, is_claimed);
  }

  void check_options() const {
    bool listed =
        std::all_of(options_.batch.begin(), options_.batch.end(), [](auto arg) { return arg >= 0; });
    if (is_whole() && (options_.batch.empty() || !listed))
      throw Error(
          fmt::format("DataParallel: .batch is {}; name the arguments that hold the batch, counted from 0",
                      options_.batch));
    if (options_.bucket_bytes < 1)
      throw Error(fmt::format("DataParallel: .bucket_bytes is {}; the least is 1", options_.bucket_bytes));
  }

  DataParallelOptions options_;
  NamedTensors parameters_, buffers_;
  std::shared_ptr<GradientReducer> reducer_;
  bool leaves_are_known_ = false, averages_are_known_ = false;
  int pauses_ = 0;
};

namespace detail {

struct DataPass::State {
  explicit State(std::shared_ptr<DataEngine> e) : engine(std::move(e)) {
    if (engine->reduces()) one_backward.emplace();
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
      begin = std::accumulate(shares->begin(), shares->begin() + group.rank(), int64_t{0});
      given = std::max(own, std::min(total, int64_t{1}));
    }
    if (x.size(0) != total)
      throw Error(fmt::format("DataParallel: argument {} holds {} samples, another one {}; see .batch", arg,
                              x.size(0), total));
    return x.narrow(0, own > 0 ? begin : 0, given);
  }

  std::shared_ptr<DataEngine> engine;
  std::optional<OneBackward> one_backward;
  std::optional<std::vector<int64_t>> shares;  // of the batch, by rank
  int64_t total = 0, begin = 0, own = 0, given = 0;
  std::vector<int64_t> versions;  // of the buffers, before the call
  std::vector<at::Tensor> arguments, results;
};

namespace {

std::vector<int64_t> versions_of(const NamedTensors& tensors) {
  std::vector<int64_t> versions;
  for (auto& [name, tensor] : tensors) versions.push_back(times_written(tensor));
  return versions;
}

}  // namespace

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
                      "this rank's part "
                      "of the batch alone; call eval(), or use BatchMode::local",
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
  engine.watch(result);
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

}  // namespace detail
}  // namespace wanpar
