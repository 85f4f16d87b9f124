#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "module/follow/rules.hpp"

namespace wanpar {
namespace {

/// Split elements with weights on the other operand: the split must not be what is summed over.
std::optional<SplitPlace> product(const Step& step, size_t left, size_t right) {
  auto *a = step.place(left), *b = step.place(right);
  if (a && b)
    step.refuse(
        "multiplies two tensors of the split dimension, as attention written out as bmm, softmax, bmm does "
        "(torch::nn::MultiheadAttention)");
  auto& x = step.tensor(a ? left : right);
  auto& other = step.tensor(a ? right : left);
  auto place = a ? *a : *b;
  auto from_end = x.dim() - place.dim;  // 1: last
  bool summed = a ? from_end == 1 : from_end == std::min<int64_t>(2, x.dim());
  if (summed) step.refuse(fmt::format("sums over dimension {}, which is split", place.dim));
  if (step.outputs.empty()) return place;
  bool vector = other.dim() == 1;
  if (a && !vector) place.dim += step.outputs[0].dim() - x.dim();
  if (b && !vector) place.dim = step.outputs[0].dim() - from_end;
  if (from_end > 2 && other.dim() >= from_end && !step.is_one(other, other.dim() - from_end, place))
    step.refuse(fmt::format("meets a tensor of its own along dimension {}, which is split", place.dim));
  return place;
}

std::optional<SplitPlace> product_of_two(const Step& step) { return product(step, 0, 1); }

/// bias + a b.
std::optional<SplitPlace> product_added(const Step& step) {
  if (step.place(0)) step.refuse("adds a product to split elements in one operator");
  return product(step, 1, 2);
}

/// W x: the split may lie along any dimension of x but the last.
std::optional<SplitPlace> linear(const Step& step) {
  auto* place = step.place(0);
  if (!place) step.refuse("takes split elements for weights");
  if (step.place(1)) step.refuse("multiplies two tensors of the split dimension");
  if (place->dim == step.tensor(0).dim() - 1)
    step.refuse(fmt::format("sums over dimension {}, which is split", place->dim));
  return *place;
}

/// Normalises over the last dimensions.
std::optional<SplitPlace> normalised_last(const Step& step) {
  auto* place = step.place(0);
  if (!place) step.refuse("takes split elements for weights");
  auto last = static_cast<int64_t>(step.named("normalized_shape")->toIntVector().size());
  if (place->dim >= step.tensor(0).dim() - last)
    step.refuse(fmt::format("normalises over dimension {}, which is split", place->dim));
  return *place;
}

/// Normalises over channels and places of each sample.
std::optional<SplitPlace> normalised_by_sample(const Step& step) {
  auto* place = step.place(0);
  if (!place) step.refuse("takes split elements for weights");
  if (place->dim > 0) step.refuse(fmt::format("normalises over dimension {}, which is split", place->dim));
  return *place;
}

/// By statistics that it is given, unless it takes those of the batch.
std::optional<SplitPlace> normalised_by_batch(const Step& step) {
  auto* place = step.place(0);
  if (!place) step.refuse("takes split elements for weights");
  if (place->dim == 1) step.refuse("takes weights for each channel, and those are split");
  if (step.named("training")->toBool())
    step.refuse(fmt::format("normalises over dimension {}, which is split; call eval()", place->dim));
  return *place;
}

/// Works along `dim`, and gives every element back.
std::optional<SplitPlace> along(const Step& step) {
  auto* place = step.place(0);
  auto dim = step.dim("dim", step.tensor(0).dim());
  if (!place || !dim || *dim == place->dim)
    step.refuse(fmt::format("works along dimension {}, which is split", place ? place->dim : 0));
  return *place;
}

/// Drops the dimensions that it reduces.
std::optional<SplitPlace> reduced(const Step& step) {
  auto* place = step.place(0);
  if (!place) step.refuse("reduces by split elements");
  auto dims = step.dims("dim", step.tensor(0).dim());
  if (!dims || dims->empty() || std::count(dims->begin(), dims->end(), place->dim))
    step.refuse(fmt::format("reduces over dimension {}, which is split", place->dim));
  auto* keep = step.named("keepdim");
  auto result = *place;
  if (!keep || !keep->toBool())
    result.dim -= std::count_if(dims->begin(), dims->end(), [&](int64_t d) { return d < place->dim; });
  return result;
}

/// max and min, of two tensors or over a dimension.
std::optional<SplitPlace> extreme(const Step& step) {
  return step.named("other") ? elementwise(step) : reduced(step);
}

/// A kernel of one along the split that takes each element once sees each for itself.
std::optional<SplitPlace> convolved(const Step& step) {
  auto* place = step.place(0);
  if (!place || step.place(1)) step.refuse("takes split elements for weights");
  auto& weight = step.tensor(1);
  auto dims = weight.dim();
  auto dim = place->dim + dims - step.tensor(0).dim();  // without a batch
  if (dim == 0) return *place;
  if (dim == 1) step.refuse(fmt::format("sums over dimension {}, which is split", place->dim));
  if (!step.is_one(weight, dim, *place))
    step.refuse(fmt::format(
        "with a kernel of {} along dimension {}, which is split, needs the neighbours on other ranks, which "
        "it gets where each step of one gives one element (a stride of 1, a padding that keeps the length)",
        weight.size(dim), place->dim));
  if (auto stride = step.along("stride", dim), padding = step.along("padding", dim);
      stride != 1 || padding != 0)
    step.refuse(fmt::format(
        "with {} of {} along dimension {}, which is split, goes by where elements stand in the whole",
        padding ? "a padding" : "a stride", padding ? padding : stride, place->dim));
  return *place;
}

std::optional<SplitPlace> embedded(const Step& step) {
  if (step.place(0)) step.refuse("takes split elements for a table");
  return *step.place(1);
}

std::optional<SplitPlace> dropped(const Step& step) {
  if (step.argument(2).toBool() && step.argument(1).toDouble() > 0)
    step.refuse("draws other random numbers on every rank than one rank would; call eval()");
  return *step.place(0);
}

std::optional<SplitPlace> random(const Step& step) {
  step.refuse("draws other random numbers on every rank than one rank would");
}

}  // namespace

std::optional<SplitPlace> elementwise(const Step& step) {
  int64_t dims = 0;
  for (auto& x : step.op.inputs) dims = std::max(dims, x.dim());
  std::optional<SplitPlace> result;
  for (auto& x : step.op.inputs)
    if (auto* place = step.follow.of(x)) {
      auto here = *place;
      here.dim += dims - x.dim();
      if (result && *result != here) step.refuse("meets tensors that are split differently");
      result = here;
    }
  for (auto& x : step.op.inputs) {
    auto d = result->dim - (dims - x.dim());
    if (step.follow.of(x) || d < 0 || step.is_one(x, d, *result)) continue;
    step.refuse(fmt::format(
        "meets a tensor that is not split and has {} elements along dimension {}, where {} of {} split ones "
        "are here; hand it to split_sequence as a companion, or name it in .split",
        x.size(d), result->dim, result->extent(), result->before * result->total * result->after));
  }
  return result;
}

Rule rule_of_math(std::string_view name) {
  static const std::unordered_map<std::string_view, Rule> rules = {
      {"matmul", product_of_two},
      {"mm", product_of_two},
      {"bmm", product_of_two},
      {"inner", product_of_two},
      {"addmm", product_added},
      {"baddbmm", product_added},
      {"linear", linear},
      {"layer_norm", normalised_last},
      {"native_layer_norm", normalised_last},
      {"rms_norm", normalised_last},
      {"group_norm", normalised_by_sample},
      {"instance_norm", normalised_by_sample},
      {"batch_norm", normalised_by_batch},
      {"softmax", along},
      {"log_softmax", along},
      {"_softmax", along},
      {"cumsum", along},
      {"cumprod", along},
      {"sort", along},
      {"argsort", along},
      {"topk", along},
      {"glu", along},
      {"sum", reduced},
      {"mean", reduced},
      {"prod", reduced},
      {"amax", reduced},
      {"amin", reduced},
      {"max", extreme},
      {"min", extreme},
      {"argmax", reduced},
      {"argmin", reduced},
      {"var", reduced},
      {"std", reduced},
      {"var_mean", reduced},
      {"norm", reduced},
      {"linalg_vector_norm", reduced},
      {"logsumexp", reduced},
      {"all", reduced},
      {"any", reduced},
      {"conv1d", convolved},
      {"conv2d", convolved},
      {"conv3d", convolved},
      {"convolution", convolved},
      {"_convolution", convolved},
      {"embedding", embedded},
      {"dropout", dropped},
      {"feature_dropout", dropped},
      {"alpha_dropout", dropped},
      {"rand_like", random},
      {"randn_like", random},
      {"bernoulli", random},
      {"normal", random},
      {"uniform", random},
      // Elementwise without the tag that says so.
      {"gelu", elementwise},
      {"leaky_relu", elementwise},
      {"hardswish", elementwise},
      {"threshold", elementwise},
      {"softshrink", elementwise},
      {"complex", elementwise},
      {"polar", elementwise},
      {"masked_fill", elementwise},
      {"__and__", elementwise},
      {"__or__", elementwise},
      {"multiply", elementwise},
      {"subtract", elementwise},
      {"divide", elementwise},
      {"square", elementwise},
      {"rsub", elementwise},
      {"clip", elementwise},
      {"arctan2", elementwise},
      {"float_power", elementwise},
      {"relu6", elementwise},
      {"selu", elementwise},
      {"isfinite", elementwise},
  };
  auto found = rules.find(name);
  return found == rules.end() ? nullptr : found->second;
}

}  // namespace wanpar
