#include <fmt/format.h>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <algorithm>
#include <optional>

#include "module/check_in_backward.hpp"
#include "module/same_module.hpp"
#include "module/shared_parameters.hpp"
#include "strategy/sequence_parallel/sequence_engine.hpp"

namespace wanpar {
namespace {

const char* kSequence = "SequenceParallel";

/// A line for each option that every rank must give alike.
std::string text_of(const SequenceParallelOptions& options) {
  auto text = fmt::format("balance_causal {}\nmin_share {}\nalways_look {}", options.balance_causal,
                          options.min_share, options.always_look);
  for (auto& cut : options.split)
    text += fmt::format("\nsplit argument {}, dimension {}", cut.arg.text(), cut.dim);
  for (auto& join : options.gather)
    text += fmt::format("\ngather dimension {} of result {}", join.dim, join.result.text());
  return text;
}

/// What one rank does between the beginning and the end of a split forward.
class SequenceForward : public ForwardScope {
 public:
  /// A module whose call has a signature seen before is taken to go the same way through its operators.
  SequenceForward(std::shared_ptr<SequenceEngine> engine, const std::string& signature, NamedTensors shared)
      : engine_(std::move(engine)), shared_(std::move(shared)) {
    if (innermost<SequenceEngine>())
      throw Error(
          "SequenceParallel: inside of another one, whose tokens are split already; wrap the module once, "
          "with "
          "both groups as .ring and .ulysses");
    engine_->begin(signature);
    scope_.emplace(*engine_);
  }
  ~SequenceForward() override {
    scope_.reset();
    engine_->end();
  }

  void enter(Arguments& arguments) override {
    Plain plain;
    ValueNames names;
    for (auto& cut : options().split) names.push_back(cut.arg);
    check_names(kSequence, ".split", names, arguments);
    Tensors all;
    for (auto& item : arguments.tensors) all.push_back(item.tensor);
    engine_->called_with(std::move(all));
    for (auto& [name, x] : arguments.tensors)
      for (auto& cut : options().split)
        if (x.defined() && cut.arg.names(name)) {
          x = engine_->cut(x, cut.dim);
          break;
        }
  }

  void leave(NamedTensors& results) override {
    Plain plain;
    Tensors all;
    for (auto& item : results) all.push_back(item.tensor);
    engine_->check_region(all);
    for (auto& [name, x] : results)
      if (x.defined()) x = gathered(name, x);
    if (!shared_.empty())
      for (auto& item : results)
        check_in_backward(item.tensor, [shared = shared_] { refuse_shared_accumulation(kSequence, shared); });
    engine_->learn();
  }

  void fail() override {
    Plain plain;
    engine_->fail();
  }

  std::string remark() const override { return engine_->remark(); }

 private:
  const SequenceParallelOptions& options() const { return engine_->options(); }

  at::Tensor gathered(const std::string& name, const at::Tensor& x) {
    auto& gather = options().gather;
    auto join = std::find_if(gather.begin(), gather.end(), [&](auto& j) { return j.result.names(name); });
    if (join != gather.end()) return engine_->gather(x, join->dim);
    if (gather.empty() && !options().split.empty()) return engine_->gather(x, {});
    engine_->check_joined(name, x);
    return x;
  }

  std::shared_ptr<SequenceEngine> engine_;
  NamedTensors shared_;
  std::optional<Scope> scope_;
};

}  // namespace

SequenceParallelStrategy::SequenceParallelStrategy(Options options, const ModuleTensors& tensors) {
  if (options.min_share < 1)
    throw Error(fmt::format("SequenceParallel: .min_share is {}; give 1 or more tokens", options.min_share));
  const std::vector<Communicator> grid{options.ulysses, options.ring};
  require_same(kSequence, "options", grid, text_of(options));
  require_same_module(kSequence, grid, tensors.parameters);
  if (are_shared(grid, tensors.parameters)) shared_ = tensors.parameters;
  engine_ = std::make_shared<SequenceEngine>(std::move(options));
}

bool SequenceParallelStrategy::is_alone() const { return engine_->size() == 1; }

std::vector<Communicator> SequenceParallelStrategy::groups() const {
  return {engine_->options().ulysses, engine_->options().ring};
}

std::unique_ptr<ForwardScope> SequenceParallelStrategy::begin(const Arguments& arguments,
                                                              std::shared_ptr<void>) const {
  return std::make_unique<SequenceForward>(engine_, arguments.kinds, shared_);
}

}  // namespace wanpar
