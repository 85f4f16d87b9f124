#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "module/boxed_tensors.hpp"
#include "module/shard_tensor.hpp"
#include "module/split/dispatch.hpp"
#include "module/split/split_facts.hpp"

namespace wanpar {
namespace {

using torch::jit::Stack;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Reduces the local result, of `local`, over the ranks.
using Reduction = at::Tensor (*)(const Stack& arguments, const Communicator& group,
                                 const std::function<at::Tensor()>& local);

at::Tensor over(const Communicator& group, const at::Tensor& x, ReduceOp op) {
  auto wide = x.is_complex()          ? at::view_as_real(x).contiguous()
              : x.is_floating_point() ? x.to(at::kDouble)
                                      : x.to(at::kLong);
  auto all = group.all_reduce(wide.to(group.device()), op).get().to(x.device());
  return (x.is_complex() ? at::view_as_complex(all) : all).to(x.scalar_type());
}

/// The reduce op that extends a local reduction over ranks; `any` is a max.
template <ReduceOp op>
at::Tensor combined(const Stack&, const Communicator& group, const std::function<at::Tensor()>& local) {
  return over(group, local(), op);
}

at::Tensor mean(const Stack& arguments, const Communicator& group, const std::function<at::Tensor()>& local) {
  const auto count = arguments[0].toTensor().numel();
  const auto mine = local();
  const auto total =
      count > 0 ? mine.to(at::kDouble) * count : at::zeros({}, mine.options().dtype(at::kDouble));
  const auto all = over(group, at::stack({total, at::full_like(total, count)}), ReduceOp::sum);
  return (all[0] / all[1]).to(mine.scalar_type());
}

/// A rank without elements contributes the identity.
template <ReduceOp op>
at::Tensor extreme(const Stack& arguments, const Communicator& group,
                   const std::function<at::Tensor()>& local) {
  const auto x = arguments[0].toTensor();
  if (x.numel() > 0) return over(group, local(), op);
  const bool is_greatest = op == ReduceOp::max;
  if (x.is_floating_point())
    return over(group, at::full({}, is_greatest ? -kInfinity : kInfinity, x.options()), op);
  using Limits = std::numeric_limits<int64_t>;
  const auto none = at::full({}, is_greatest ? Limits::min() : Limits::max(), x.options().dtype(at::kLong));
  return over(group, none, op).to(x.scalar_type());
}

at::Tensor norm(const Stack& arguments, const Communicator& group, const std::function<at::Tensor()>& local) {
  const auto& order = arguments[1];
  const double p = order.isNone() ? 2 : order.toScalar().toDouble();
  const auto x = arguments[0].toTensor();
  if (std::isinf(p)) {
    const auto op = p > 0 ? ReduceOp::max : ReduceOp::min;
    const auto real = x.is_complex() ? at::real(x) : x;
    return over(group, x.numel() > 0 ? local() : at::full({}, p > 0 ? 0.0 : kInfinity, real.options()), op);
  }
  const auto mine = local();
  if (p == 0) return over(group, mine, ReduceOp::sum);
  return over(group, mine.to(at::kDouble).pow(p), ReduceOp::sum).pow(1 / p).to(mine.scalar_type());
}

/// Reductions over all elements; along a dimension they are not defined for shards.
const std::unordered_map<std::string_view, Reduction>& reductions() {
  static const std::unordered_map<std::string_view, Reduction> all{
      {"aten::sum", combined<ReduceOp::sum>},
      {"aten::nansum", combined<ReduceOp::sum>},
      {"aten::dot", combined<ReduceOp::sum>},
      {"aten::vdot", combined<ReduceOp::sum>},
      {"aten::count_nonzero", combined<ReduceOp::sum>},
      {"aten::mean", mean},
      {"aten::max", extreme<ReduceOp::max>},
      {"aten::amax", extreme<ReduceOp::max>},
      {"aten::min", extreme<ReduceOp::min>},
      {"aten::amin", extreme<ReduceOp::min>},
      {"aten::any", combined<ReduceOp::max>},
      {"aten::all", combined<ReduceOp::min>},
      {"aten::norm", norm},
      {"aten::linalg_vector_norm", norm},
  };
  return all;
}

/// Whether the operator reduces one tensor, or two of equal shape, to one number.
bool is_of_all_elements(const c10::OperatorHandle& op, const Stack& arguments) {
  auto& schema = op.schema();
  if (schema.returns().size() != 1 || !schema.returns()[0].type()->isSubtypeOf(*c10::TensorType::get()))
    return false;
  if (schema.overload_name() == "other") return false;  // elementwise maximum
  for (size_t i = 1; i < arguments.size(); ++i) {
    auto& value = arguments[i];
    const bool is_none = value.isNone() || (value.isIntList() && value.toIntVector().empty());
    if (schema.arguments()[i].name() == "dim" && !is_none) return false;
  }
  return true;
}

/// Operators that are independent of sharding, although not tagged pointwise.
bool keeps_elements(const c10::OperatorHandle& op, const SplitFacts& facts) {
  static const std::unordered_set<std::string_view> names{
      "aten::randn_like", "aten::rand_like",    "aten::normal_",     "aten::uniform_",
      "aten::bernoulli_", "aten::is_same_size", "aten::_unsafe_view"};
  const std::string_view name = op.schema().name();
  if (facts.is_elementwise || facts.is_view || names.contains(name)) return true;
  if (name.starts_with("aten::_foreach_"))
    return name != "aten::_foreach_norm" && name != "aten::_foreach_max";
  return name.starts_with("aten::new_") || name.starts_with("aten::_fused_") || !name.starts_with("aten::");
}

/// Elementwise operators need inputs of equal extent: x·xᵀ by broadcasting is rejected.
bool are_side_by_side(const SplitFacts& facts, const std::vector<at::Tensor>& tensors) {
  if (!facts.is_elementwise) return true;
  const auto shard = std::find_if(tensors.begin(), tensors.end(), [](auto& x) { return as_shard(x); });
  return std::all_of(tensors.begin(), tensors.end(), [&](auto& x) {
    return as_shard(x) ? x.sizes() == shard->sizes() : x.numel() == 1 || x.sizes() == shard->sizes();
  });
}

/// Concatenated shards are shards of the concatenated tensors.
bool joins_shards(const c10::OperatorHandle& op, const std::vector<at::Tensor>& tensors) {
  if (op.schema().name() != "aten::cat") return false;
  return std::all_of(tensors.begin(), tensors.end(), [](auto& x) { return as_shard(x) || x.numel() == 0; });
}

[[noreturn]] void refuse(const c10::OperatorHandle& op, const Communicator& group) {
  throw UsageError(fmt::format(
      "{} on a shard: this rank has some of its elements, the other {} the rest, and each would make "
      "something "
      "else of its own. Work with them one by one, make one number of all (norm, sum, dot, max), or take the "
      "whole parameters by each_parameter() or unshard()",
      op.schema().name(), group.size() == 2 ? "rank" : fmt::format("{} ranks", group.size() - 1)));
}

/// mean: autograd would divide the gradient by the local number of elements.
void refuse_mean_in_graph(const c10::OperatorHandle& op, const at::Tensor& x) {
  if (op.schema().name() == "aten::mean" && at::GradMode::is_enabled() && x.requires_grad())
    throw UsageError(
        "aten::mean of a shard, with a gradient, which would be divided by this rank's number of elements; "
        "take sum() and divide by the parameter's own (of the sizes in named_parameters()[i].shard)");
}

}  // namespace

void on_shards(const c10::OperatorHandle& op, Stack* stack) {
  auto& facts = split_facts(op);
  if (facts.is_composite)
    return op.callBoxedForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd, *stack);
  const BelowAutograd below;
  const auto count = op.schema().arguments().size();
  const std::span<c10::IValue> arguments(stack->data() + stack->size() - count, count);
  const auto given = tensors_among(arguments);
  std::vector<at::Tensor> local;
  Communicator group;
  bool has_pieces = false;
  for (auto& x : given) {
    if (auto* shard = as_shard(x)) group = shard->group(), has_pieces |= shard->is_piece();
    local.push_back(local_of(x));
  }

  auto reduction = reductions().find(op.schema().name());
  const bool reduces = reduction != reductions().end() && !has_pieces &&
                       is_of_all_elements(op, {arguments.begin(), arguments.end()});
  if (!reduces && !joins_shards(op, given) && !(keeps_elements(op, facts) && are_side_by_side(facts, given)))
    refuse(op, group);
  put_back(local, arguments);
  if (reduces) {
    refuse_mean_in_graph(op, given[0]);
    const Stack call(arguments.begin(), arguments.end());
    auto all = reduction->second(call, group, [&] {
      auto values = call;
      op.callBoxed(values);
      return values.back().toTensor();
    });
    torch::jit::drop(*stack, count);
    stack->emplace_back(std::move(all));
    return;
  }

  const auto below_arguments = stack->size() - count;
  op.callBoxed(*stack);
  const std::span<c10::IValue> results(stack->data() + below_arguments, stack->size() - below_arguments);
  auto made = tensors_among(results);
  const bool creates = op.schema().name().starts_with("aten::new_");
  for (auto& result : made) {
    auto same = std::find_if(local.begin(), local.end(), [&](auto& x) { return x.is_same(result); });
    if (same != local.end())
      result = given[static_cast<size_t>(same - local.begin())];
    else if (!creates || result.sizes() == local[0].sizes())
      result = shard_of(result, group, has_pieces || (facts.is_view && result.numel() != local[0].numel()));
  }
  put_back(made, results);
}

}  // namespace wanpar
