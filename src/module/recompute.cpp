#include "module/recompute.hpp"

#include <ATen/ATen.h>
#include <ATen/SequenceNumber.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <optional>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include <wanpar/extend/module/linear_map.hpp>
#include "module/autocast_cache.hpp"
#include "module/backward_pass.hpp"
#include "module/leaves.hpp"
#include "module/random_state.hpp"
#include "module/same_values.hpp"
#include "module/times_written.hpp"

namespace wanpar {
namespace {

using torch::autograd::variable_list;

/// The random states before and after the first run, if it has drawn random numbers.
struct Draws {
  RandomState before, after;
};

/// RAII: sets the generators to another state.
class DrawingFrom {
 public:
  DrawingFrom(const RandomState& state, at::Device device) : now_(RandomState::now(device)) {
    state.restore();
  }
  ~DrawingFrom() { now_.restore(); }
  DrawingFrom(const DrawingFrom&) = delete;
  DrawingFrom& operator=(const DrawingFrom&) = delete;

 private:
  RandomState now_;
};

struct Recomputation : torch::autograd::Node, ReachesLeaves {
  variable_list apply(variable_list&& gradients) override {
    check_is_whole_backward();
    variable_list inputs;
    for (auto& input : saved) {
      auto x = input.unpack();
      inputs.push_back(x.defined() ? x.detach().requires_grad_(x.requires_grad()) : x);
    }
    if (gradients[0].defined()) {
      ReentrantBackward inner;
      auto result = run(inputs, inner);
      Scope part_of_the_outer_one(inner);
      check_leaves(result, inputs);
      // Graph of earlier blocks that the segment reads is also needed by the outer backward: retain it.
      if (result.requires_grad()) torch::autograd::backward({result}, {gradients[0]}, reads_the_past);
    }
    for (auto& x : inputs) x = x.defined() ? x.grad() : x;
    return inputs;
  }

  void release_variables() override {
    for (auto& input : saved) input.reset_data();
  }
  std::string name() const override { return "wanpar::Recomputation"; }
  const std::vector<at::Tensor>& leaves() const override { return inner_leaves; }

  static void check_is_whole_backward() {
    refuse_create_graph();
    if (!torch::autograd::Engine::get_default_engine().is_checkpoint_valid())
      throw UsageError(
          "activation checkpointing: gradients by torch::autograd::grad, or by backward with a list of "
          "inputs, would leave out those of the blocks' parameters; call backward() without inputs");
  }

  at::Tensor run(const variable_list& inputs, ReentrantBackward& inner) {
    auto held = within(inputs);
    Scope part_of_the_outer_one(inner);
    NoAutocastCache no_cache;
    try {
      auto result = draws ? draw_again(inputs) : run_part(inputs);
      if (!Digest::of(result).is_close_to(first))
        throw UsageError(
            "activation checkpointing: a block gave other values when it ran again; whatever it reads beside "
            "its arguments (numbers, flags, weights) must be the same until backward() is done");
      return result;
    } catch (...) {
      Scope::rethrow();
    }
  }

  /// Tensors of other blocks that the segment reads must have their original graph, not that of a
  /// recomputation.
  void check_leaves(const at::Tensor& result, const variable_list& inputs) const {
    for (auto& leaf : leaves_of({result}, inputs))
      if (std::none_of(inner_leaves.begin(), inner_leaves.end(), [&](auto& x) { return x.is_same(leaf); }))
        throw UsageError(
            "activation checkpointing: a block reads what another one keeps, which has been made anew when "
            "that one ran again, so that gradients would go astray; call backward() once, or give it to the "
            "block as an argument");
  }

  at::Tensor run_part(const variable_list& inputs) const {
    auto result = part(inputs[0], {inputs.begin() + 1, inputs.end()});
    if (result.sizes() != sizes || result.scalar_type() != dtype)
      throw UsageError(
          fmt::format("activation checkpointing: a block gave {} when it ran again, another shape or dtype "
                      "than before; it must do the same whenever it is given the same",
                      result.sizes()));
    return result;
  }

  /// Recomputes with the original random numbers, and restores the generators.
  at::Tensor draw_again(const variable_list& inputs) const {
    auto device = inputs[0].device();
    DrawingFrom former(draws->before, device);
    auto result = run_part(inputs);
    if (!(RandomState::now(device) == draws->after))
      throw UsageError(
          "activation checkpointing: a block drew other random numbers when it ran again; ranks that are "
          "threads share one generator, so train with dropout on processes");
    return result;
  }

  Part part;
  RecomputeScope within;
  std::optional<Draws> draws;
  std::vector<torch::autograd::SavedVariable> saved;  // x and the side tensors
  std::vector<int64_t> sizes;                         // of the result
  at::ScalarType dtype;
  Digest first;  // of the first result
  std::vector<at::Tensor> inner_leaves;
  bool reads_the_past = false;  // reads graph from before the segment, other than through its inputs
};

/// Active in the first run: detects whether it draws random numbers. The generator's state would not tell,
/// since other threads draw, too.
class Drawing : public OperatorHandler, public UnrecordedRun {
 public:
  Tensors around(const Operator& op, const Next& next) override {
    if (auto attention = as_attention(op))
      seen |= attention->dropout > 0;
    else
      seen |= op.handle.hasTag(at::Tag::nondeterministic_seeded) && !is_off(op);
    return next(op);
  }
  bool seen = false;

 private:
  /// Dropout that is disabled.
  static bool is_off(const Operator& op) {
    auto index = op.handle.schema().argumentIndexWithName("train");
    return index && op.arguments[*index].isBool() && !op.arguments[*index].toBool();
  }
};

}  // namespace

at::Tensor recomputed(const Part& part, const at::Tensor& x, const std::vector<at::Tensor>& side) {
  variable_list inputs{x};
  inputs.insert(inputs.end(), side.begin(), side.end());
  std::vector<int64_t> written;
  for (auto& input : inputs) written.push_back(times_written(input));

  auto node = std::shared_ptr<Recomputation>(new Recomputation, torch::autograd::deleteNode);
  node->within = recompute_scope(inputs);
  auto before = RandomState::now(x.device());
  const auto nodes_before = at::sequence_number::peek();
  // Runs with autograd, but the graph is dropped, except for what the segment stores itself: a loss in a
  // member is differentiated by its own graph, not by the recomputation.
  at::Tensor first;
  Drawing drawing;
  {
    Scope watch(drawing);
    NoAutocastCache no_cache;
    first = part(x, side);
  }
  if (drawing.seen) node->draws = Draws{std::move(before), RandomState::now(x.device())};
  for (size_t i = 0; i < inputs.size(); ++i)
    if (times_written(inputs[i]) != written[i])
      throw UsageError(
          "activation checkpointing: a block writes to what it is given, so it could not run again from "
          "there; use the operator that makes a new tensor");

  NoInterceptGuard no_intercept;
  at::Tensor result;
  {
    at::NoGradGuard no_grad;
    result = first.detach();  // a block may return its input, which has a history of its own
  }
  node->part = part;
  node->first = Digest::of(first);
  node->inner_leaves = leaves_of({first}, inputs);
  node->reads_the_past = depends_on_earlier({first}, inputs, nodes_before);
  node->sizes = result.sizes().vec();
  node->dtype = result.scalar_type();
  torch::autograd::edge_list edges;
  for (auto& input : inputs) {
    edges.push_back(input.defined() ? torch::autograd::impl::gradient_edge(input) : torch::autograd::Edge());
    node->saved.emplace_back(input, false);
  }
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(result, node);
  return substitute(first, std::move(result));
}

}  // namespace wanpar
