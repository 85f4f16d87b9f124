#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <span>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/strategy/data_parallel.hpp>

#include "core/arguments.hpp"
#include "module/gradient_reduction.hpp"
#include "module/same_values.hpp"
#include "module/times_written.hpp"
#include "strategy/data_parallel/batch_trace.hpp"
#include "strategy/data_parallel/data_engine.hpp"

namespace wanpar {
namespace {

/// Call in a backward of a global batch.
void check_differentiates_once() {
  if (at::GradMode::is_enabled())
    throw UsageError(
        "DataParallel: gradients of gradients do not pass a batch that is cut over ranks; call backward() "
        "without create_graph, or use BatchMode::local");
}

/// The replicated x, whose gradient is averaged over the ranks.
at::Tensor with_mean_gradient(const at::Tensor& x, const Communicator& group) {
  auto same = x.view_as(x);
  same.register_hook([group](const at::Tensor& gradient) {
    check_differentiates_once();
    NoInterceptGuard no_intercept;
    return group.all_reduce(gradient, ReduceOp::mean).get();
  });
  return same;
}

/// One call of the module on one rank.
class DataForward : public ForwardScope, public GradientReduction {
 public:
  explicit DataForward(std::shared_ptr<DataEngine> engine) : engine_(std::move(engine)) {
    if (innermost<TokenHandler>())
      throw UsageError(
          "DataParallel: inside of SequenceParallel, which cannot follow its tokens through a gathered "
          "batch; swap the two: model | sequence_parallel(…) | data_parallel(…)");
    engine_->prepare();
    if (engine_->reduces()) scope_.emplace(*this);
    if (engine_->is_global_batch()) versions_ = times_written(engine_->buffers());
  }

  void enter(Arguments& arguments) override {
    {
      NoInterceptGuard no_intercept;
      if (engine_->is_global_batch()) check_arguments(arguments);
      for (auto& [name, x] : arguments.tensors) {
        if (!x.defined()) continue;
        if (engine_->is_global_batch()) x = substitute(x, given(name, x));
        arguments_.push_back(x);
      }
    }
    if (engine_->is_global_batch() && total_ > 0 && !engine_->states_all_results())
      trace_scope_.emplace(trace_);
  }

  void leave(NamedTensors& results) override {
    trace_scope_.reset();
    scope_.reset();
    std::vector<at::Tensor> found;
    for (auto& [name, x] : results)
      if (x.defined()) found.push_back(x);
    engine_->check_parameters();
    if (at::GradMode::is_enabled()) engine_->check_leaves(found, arguments_);
    if (engine_->is_global_batch()) {
      check_buffers();
      join(results);
    }
    for (auto& [name, x] : results)
      if (x.defined()) engine_->watch(x, is_deferred());
  }

 private:
  /// The argument that the module gets: this rank's shard, or the replicated argument.
  at::Tensor given(const std::string& name, at::Tensor x) {
    bool wants_gradient = at::GradMode::is_enabled() && x.requires_grad();
    if (wants_gradient) x = with_mean_gradient(x, engine_->group());
    if (!engine_->options().batch.name(name)) return x;
    x = samples(name, x);
    if (total_ > 0) trace_.mark_batch(x);
    return x;
  }

  /// This rank's samples of an argument. A rank without samples gets the first one, so that it takes part in
  /// all collectives of the module and its backward.
  at::Tensor samples(const std::string& name, const at::Tensor& x) {
    if (x.dim() == 0)
      throw UsageError(
          fmt::format("DataParallel: argument {} is a number and holds no batch; see .batch", name));
    auto& group = engine_->group();
    if (!shares_) {
      total_ = x.size(0);
      shares_ = even_sizes(total_, group.size());
      own_ = (*shares_)[group.rank()];
      begin_ = total(std::span(*shares_).first(group.rank()));
      given_ = std::max(own_, std::min(total_, int64_t{1}));
    }
    if (x.size(0) != total_)
      throw UsageError(fmt::format("DataParallel: argument {} holds {} samples, another one {}; see .batch",
                                   name, x.size(0), total_));
    return x.narrow(0, own_ > 0 ? begin_ : 0, given_);
  }

  /// Verifies that every rank has passed the same global batch.
  void check_arguments(const Arguments& arguments) const {
    check_names("DataParallel", ".batch", engine_->options().batch, arguments);
    require_same_values(
        "DataParallel", "arguments", {engine_->group()}, named(arguments.tensors, "argument"),
        "in BatchMode::global every rank gives the same global batch, of which it runs its shard; "
        "where each rank has a batch of its own, as under DDP, set .mode = BatchMode::local",
        arguments.signature);
  }

  static NamedTensors named(NamedTensors tensors, const std::string& what) {
    for (auto& item : tensors) item.name = item.name.empty() ? what : what + " " + item.name;
    return tensors;
  }

  /// Throws Error if the module's writes to its buffers depend on the local samples.
  void check_buffers() const {
    if (engine_->buffers().empty()) return;
    bool is_written = times_written(engine_->buffers()) != versions_;
    if (on_any_rank(engine_->group(), is_written))
      require_same_values(
          "DataParallel", "buffers", {engine_->group()}, named(engine_->buffers(), "buffer"),
          "the module wrote its buffers, as batch norm does in training, from this rank's part "
          "of the batch alone; call eval(), or use BatchMode::local");
  }

  /// Replaces local results by the gathered results of the global batch.
  void join(NamedTensors& results) const {
    if (!shares_)
      throw UsageError("DataParallel: every argument that .batch names was left out, so there is no batch");
    std::vector<BatchPlacement> places;
    std::string lines;  // must be equal on all ranks
    NamedTensors without_batch;
    for (auto& [name, x] : results) {
      auto& place = places.emplace_back(x.defined() ? placement_of(name, x) : BatchPlacement{});
      auto sizes = x.defined() ? x.sizes().vec() : std::vector<int64_t>{};
      if (place.dim) sizes[*place.dim] = 0;
      lines += fmt::format("result {} {}, batch along {}\n", name, sizes, place.dim.value_or(-1));
      if (x.defined() && !place.dim && total_ > 0) without_batch.push_back({name, x});
    }
    if (at::GradMode::is_enabled() && engine_->options().gather.empty()) check_kept(tensors_in(results));
    require_same("DataParallel", "results", {engine_->group()}, lines);
    if (!without_batch.empty())
      require_same_values("DataParallel", "results", {engine_->group()}, named(without_batch, "result"),
                          "dimension 0, or another one, must be the batch, or every rank must find the same");
    for (size_t i = 0; i < results.size(); ++i)
      if (places[i].dim) results[i].tensor = gathered(results[i].name, results[i].tensor, places[i]);
  }

  /// Throws Error if the module stores a tensor (a loss) that depends on the local samples only.
  void check_kept(const Tensors& results) const {
    auto why = trace_.kept_beside(results);
    if (!why.empty())
      throw UsageError(
          fmt::format("DataParallel: the module keeps a tensor with a history beside its result, made of "
                      "this rank's part of the batch alone: it went through {}; give on what each sample "
                      "adds as a part of the result, or use BatchMode::local",
                      why));
  }

  /// The batch dimension of a result: as stated in .gather, or as inferred from the operators. Throws Error
  /// if neither tells.
  BatchPlacement placement_of(const std::string& name, const at::Tensor& x) const {
    auto place = total_ == 0 ? BatchPlacement{} : stated(name).value_or(trace_.of(x));
    auto where = name.empty() ? "the result" : "result " + name;
    if (!place.lost.empty())
      throw UsageError(fmt::format(
          "DataParallel: where the batch is in {} {} is not known: it went through {}; run what mixes "
          "samples outside of the wrapper, name the dimension in .gather if each sample is there by "
          "itself, or use BatchMode::local",
          where, x.sizes(), place.lost));
    if (place.dim && *place.dim < 0) *place.dim += x.dim();
    bool fits =
        !place.dim || (*place.dim >= 0 && *place.dim < x.dim() && x.size(*place.dim) == given_ * place.each);
    if (!fits)
      throw UsageError(
          fmt::format("DataParallel: {} {} for {} samples does not hold them along dimension {}; see .gather",
                      where, x.sizes(), given_, *place.dim));
    return place;
  }

  std::optional<BatchPlacement> stated(const std::string& name) const {
    for (auto& gather : engine_->options().gather)
      if (gather.result.names(name)) return BatchPlacement{.dim = gather.dim};
    return {};
  }

  /// The gathered tensor that the caller gets for a local result.
  at::Tensor gathered(const std::string& name, const at::Tensor& result, const BatchPlacement& place) const {
    const auto ranks = engine_->group().size();
    const auto dim = *place.dim;
    auto sizes = *shares_;
    for (auto& size : sizes) size *= place.each;
    auto own = result.narrow(dim, 0, own_ * place.each);
    auto group = name.empty() ? engine_->group() : engine_->group().about("result " + name);
    auto all = group.all_gather(own.detach(), dim, sizes).get();
    if (!at::GradMode::is_enabled() || !own.requires_grad()) return all;
    // Gradients will be averaged over the ranks, but these must be summed.
    own.register_hook([ranks](const at::Tensor& gradient) {
      check_differentiates_once();
      NoInterceptGuard no_intercept;
      return gradient * ranks;
    });
    const auto begin = begin_ * place.each, end = begin + own.size(dim);
    return at::cat({all.narrow(dim, 0, begin), own, all.narrow(dim, end, all.size(dim) - end)}, dim);
  }

  std::shared_ptr<DataEngine> engine_;
  BatchTrace trace_;
  std::optional<Scope> scope_, trace_scope_;
  std::optional<std::vector<int64_t>> shares_;  // numbers of samples, by rank
  int64_t total_ = 0, begin_ = 0, own_ = 0, given_ = 0;
  std::vector<int64_t> versions_;  // version counters of the buffers before the call
  std::vector<at::Tensor> arguments_;
};

}  // namespace

DataParallelStrategy::DataParallelStrategy(Options options, const ModuleTensors& tensors)
    : engine_(std::make_shared<DataEngine>(std::move(options), tensors.parameters, tensors.buffers)) {}

bool DataParallelStrategy::is_alone() const { return engine_->group().size() == 1; }
std::vector<Communicator> DataParallelStrategy::groups() const { return {engine_->group()}; }

std::unique_ptr<ForwardScope> DataParallelStrategy::begin_forward(const Arguments&,
                                                                  std::shared_ptr<void>) const {
  return std::make_unique<DataForward>(engine_);
}

NoSync DataParallelStrategy::no_sync() {
  engine_->pause();
  return NoSync([engine = engine_] { engine->resume(); });
}

std::vector<std::string> DataParallelStrategy::unused_parameters() const { return engine_->unused(); }

}  // namespace wanpar
