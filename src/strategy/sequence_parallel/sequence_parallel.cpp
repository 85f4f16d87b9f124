#include <fmt/format.h>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <exception>
#include <optional>

#include "module/same_module.hpp"
#include "strategy/sequence_parallel/sequence_engine.hpp"

namespace wanpar {
namespace detail {
namespace {

/// A line for each option that every rank must give alike.
std::string text_of(const SequenceParallelOptions& options) {
  auto text = fmt::format("balance_causal {}\nalways_look {}", options.balance_causal, options.always_look);
  for (auto& cut : options.split) text += fmt::format("\nsplit argument {}, dimension {}", cut.arg, cut.dim);
  for (auto& join : options.gather) text += fmt::format("\ngather dimension {}", join.dim);
  return text;
}

}  // namespace

struct SequenceRegion::State {
  State(std::shared_ptr<SequenceEngine> e, const CallShape& shape) : engine(std::move(e)) {
    engine->begin(shape);
    scope.emplace(*engine);
  }
  ~State() { engine->end(); }
  std::shared_ptr<SequenceEngine> engine;
  std::optional<Scope> scope;
};

SequenceRegion::SequenceRegion(std::shared_ptr<SequenceEngine> engine, size_t arguments,
                               const CallShape& shape) {
  if (within("SequenceParallel"))
    throw Error(
        "SequenceParallel: inside of another one, whose tokens are split already; wrap the module once, with "
        "both groups as .ring and .ulysses");
  for (auto& cut : engine->options().split)
    if (cut.arg < 0 || cut.arg >= static_cast<int64_t>(arguments))
      throw Error(fmt::format("SequenceParallel: .split names argument {}, but the module was called with {}",
                              cut.arg, arguments));
  state_ = std::make_unique<State>(std::move(engine), shape);
}

SequenceRegion::~SequenceRegion() = default;

void SequenceRegion::fail() {
  auto error = std::current_exception();
  try {
    Plain plain;
    state_->engine->fail();
  } catch (const Error&) {
    // The others have failed as well; what is to be told is why this rank did.
  }
  try {
    std::rethrow_exception(error);
  } catch (...) {
    Scope::rethrow();
  }
}

at::Tensor SequenceRegion::part(size_t arg, const at::Tensor& x) {
  Plain plain;
  for (auto& cut : state_->engine->options().split)
    if (cut.arg == static_cast<int64_t>(arg)) return state_->engine->cut(x, cut.dim);
  return x;
}

at::Tensor SequenceRegion::leave(at::Tensor result) {
  Plain plain;
  auto& engine = *state_->engine;
  auto& options = engine.options();
  if (!options.gather.empty())
    result = engine.gather(result, options.gather[0].dim);
  else if (!options.split.empty())
    result = engine.gather(result, {});
  engine.check_region();
  engine.learn();
  return result;
}

std::shared_ptr<SequenceEngine> make_sequence_engine(SequenceParallelOptions options,
                                                     const NamedTensors& parameters) {
  const std::vector<Communicator> grid{options.ulysses, options.ring};
  check_same("SequenceParallel", "options", grid, text_of(options));
  check_same_module("SequenceParallel", grid, parameters);
  return std::make_shared<SequenceEngine>(std::move(options));
}

bool is_alone(const SequenceEngine& engine) { return engine.size() == 1; }

}  // namespace detail
}  // namespace wanpar
