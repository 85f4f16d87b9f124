#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "module/follow/rules.hpp"

namespace wanpar {
namespace {

Verdict is_weight() { return {{}, "takes split elements for weights"}; }

Verdict sums_over(const SamplePlacement& place) {
  return {{}, fmt::format("sums over dimension {}, which is split", place.dim)};
}

Verdict meets_another(const at::Tensor& x, int64_t dim, const SamplePlacement& place) {
  return {{},
          fmt::format("meets a tensor that is not split and has {} elements along dimension {}, where {} "
                      "of {} split ones are here",
                      x.size(dim), place.dim, place.extent(), place.global_extent())};
}

/// A product with a replicated weight: the split dimension must not be contracted.
Verdict product(Step& step, size_t left, size_t right) {
  auto *a = step.place(left), *b = step.place(right);
  if (a && b) return {{}, "multiplies two tensors of the split dimension"};
  if (!a && !b) return is_weight();
  auto& x = step.tensor(a ? left : right);
  auto& other = step.tensor(a ? right : left);
  auto place = a ? *a : *b;
  const auto from_end = x.dim() - place.dim;  // 1: last
  bool is_summed = a ? from_end == 1 : from_end == std::min<int64_t>(2, x.dim());
  if (is_summed) return sums_over(place);
  if (from_end > 2 && other.dim() >= from_end && !step.fits(other, other.dim() - from_end, place))
    return meets_another(other, other.dim() - from_end, place);
  // For a vector operand the contracted dimensions disappear.
  if (x.dim() > 1 && other.dim() > 1)
    place.dim = std::max(x.dim(), other.dim()) - from_end;
  else if (b && other.dim() == 1)
    place.dim -= place.dim == x.dim() - 1;  // [n] [.., n, m] = [.., m]
  return {place};
}

Verdict product_of_two(Step& step) { return product(step, 0, 1); }

/// bias + a b, where the bias broadcasts to the product.
Verdict product_added(Step& step) {
  if (step.place(0)) return {{}, "adds a product to split elements in one operator"};
  auto verdict = product(step, 1, 2);
  if (!verdict.place) return verdict;
  auto& bias = step.tensor(0);
  const auto dims = std::max(step.tensor(1).dim(), step.tensor(2).dim());
  const auto d = verdict.place->dim - (dims - bias.dim());
  if (d >= 0 && !step.fits(bias, d, *verdict.place)) return meets_another(bias, d, *verdict.place);
  return verdict;
}

/// W x + b: x may be split along any dimension but the last.
Verdict linear(Step& step) {
  auto* place = step.place(0);
  if (!place || step.place(1) || step.place(2)) return is_weight();
  if (place->dim == step.dims() - 1) return sums_over(*place);
  auto& bias = step.tensor(2);
  if (bias.defined() && bias.dim() > 1) {
    const auto d = place->dim - (step.dims() - bias.dim());
    if (d >= 0 && !step.fits(bias, d, *place)) return meets_another(bias, d, *place);
  }
  return {*place};
}

/// Each row of the result depends on a row of the first operand and on all of the second.
Verdict distances(Step& step) {
  auto* place = step.place(0);
  auto& other = step.tensor(1);
  if (!place || step.place(1) || place->dim != step.dims() - 2) return is_weight();
  auto result = *place;
  result.dim = std::max(step.dims(), other.dim()) - 2;
  return {result};
}

/// Normalises over the last dimensions.
Verdict normalised_last(Step& step) {
  auto* place = step.place(0);
  if (!place) return is_weight();
  auto last = static_cast<int64_t>(step.named("normalized_shape")->toIntVector().size());
  if (place->dim >= step.dims() - last)
    return {{}, fmt::format("normalises over dimension {}, which is split", place->dim)};
  return {*place};
}

/// Normalises over channels and space of each sample.
Verdict normalised_by_sample(Step& step) {
  auto* place = step.place(0);
  if (!place) return is_weight();
  if (place->dim > 0) return {{}, fmt::format("normalises over dimension {}, which is split", place->dim)};
  return {*place};
}

/// Uses given statistics, or those of the batch.
Verdict normalised_by_batch(Step& step) {
  auto* place = step.place(0);
  if (!place) return is_weight();
  if (place->dim == 1 || step.named("training")->toBool())
    return {{}, fmt::format("normalises over dimension {}, which is split", place->dim)};
  return {*place};
}

/// Works along `dim`, with output of the input's shape.
Verdict along(Step& step) {
  auto* place = step.place(0);
  auto dim = step.dim("dim", step.dims());
  if (!place || !dim || *dim == place->dim)
    return {{}, fmt::format("works along dimension {}, which is split", place ? place->dim : 0)};
  return {*place};
}

/// Removes the dimensions that it reduces.
Verdict reduced(Step& step) {
  auto* place = step.place(0);
  if (!place) return {{}, "reduces by split elements"};
  auto dims = step.dim_list("dim", step.dims());
  if (!dims || dims->empty() || std::count(dims->begin(), dims->end(), place->dim))
    return {{}, fmt::format("reduces over dimension {}, which is split", place->dim)};
  auto* keep = step.named("keepdim");
  auto result = *place;
  if (!keep || !keep->toBool())
    result.dim -= std::count_if(dims->begin(), dims->end(), [&](int64_t d) { return d < place->dim; });
  return {result};
}

/// max and min: of two tensors, or over a dimension.
Verdict extreme(Step& step) { return step.named("other") ? elementwise(step) : reduced(step); }

/// A convolution with kernel size 1 and stride 1 along the split dimension treats elements independently.
Verdict convolved(Step& step) {
  auto* place = step.place(0);
  if (!place || step.place(1)) return is_weight();
  auto& weight = step.tensor(1);
  auto dims = weight.dim();
  auto dim = place->dim + dims - step.dims();  // the input may have no batch dimension
  if (dim == 0) return {*place};
  if (dim == 1) return sums_over(*place);
  if (auto* transposed = step.named("transposed"); transposed && transposed->toBool())
    return {{}, "transposed needs the neighbours on other ranks"};
  if (weight.size(dim) != 1 || step.along("stride", dim) != 1 || step.along("padding", dim) != 0)
    return {{},
            fmt::format("along dimension {}, which is split, goes by where elements stand in the whole",
                        place->dim)};
  return {*place};
}

Verdict embedded(Step& step) {
  if (step.place(0)) return {{}, "takes split elements for a table"};
  if (auto* scaled = step.named("scale_grad_by_freq"); scaled && scaled->toBool())
    return {{}, "counts how often each index is there"};
  return {*step.place(1)};
}

Verdict dropped(Step& step) {
  if (!step.place(0)) return is_weight();
  return {*step.place(0)};
}

/// Uses only dtype and device of its second operand.
Verdict kept_if_own(Step& step) { return step.place(0) ? Verdict{*step.place(0)} : Verdict{}; }

/// A tensor of extent 1 that is expanded to the split extent is split alike.
Verdict expanded_as(Step& step) {
  auto &self = step.tensor(0), &other = step.tensor(1);
  if (auto* own = step.place(0)) {
    auto place = *own;
    place.dim += other.dim() - self.dim();
    return {place};
  }
  auto& like = *step.place(1);
  auto d = like.dim - (other.dim() - self.dim());
  if (d >= 0 && !step.fits(self, d, like)) return meets_another(self, d, like);
  return {like};
}

/// Gathers along a dimension other than the split one; the index has the same number of dimensions.
Verdict picked(Step& step) {
  std::optional<SamplePlacement> found;
  for (size_t i : {size_t{0}, size_t{2}})
    if (auto* place = step.place(i)) found = *place;
  if (step.op.arguments.size() > 3 && !found)
    if (auto* place = step.place(3)) found = *place;
  auto dim = step.dim("dim", step.dims());
  if (!found || !dim || *dim == found->dim) return {{}, "picks along the split dimension"};
  for (size_t i = 0; i < step.op.arguments.size(); ++i) {
    auto& x = step.tensor(i);
    if (!x.defined() || x.dim() == 0) continue;
    if (auto* place = step.place(i)) {
      if (*place != *found) return {{}, "meets tensors that are split differently"};
    } else if (x.size(found->dim) != found->global_extent() || !step.fits(x, found->dim, *found)) {
      return meets_another(x, found->dim, *found);  // an index is not broadcast
    }
  }
  return {*found};
}

/// Concatenation along a dimension other than the split one, along which all tensors must be split alike.
Verdict joined(Step& step, bool is_new_dim) {
  auto& tensors = step.op.inputs;
  const SamplePlacement* first = nullptr;
  for (auto& x : tensors)
    if (!first) first = step.follow.of(x);
  const auto dims = tensors[0].dim();
  auto dim = *step.dim("dim", dims + is_new_dim);
  if (!is_new_dim && dim == first->dim)
    return {{}, fmt::format("joins along dimension {}, which is split", dim)};
  for (auto& x : tensors) {
    auto* place = step.follow.of(x);
    if (place && *place != *first) return {{}, "joins tensors that are split differently"};
    if (place) continue;
    // Concatenation does not broadcast: extent 1 does not fit.
    if (x.dim() != dims || x.size(first->dim) != first->global_extent() || !step.fits(x, first->dim, *first))
      return {{}, "joins split tensors with one that is not split"};
  }
  auto place = *first;
  place.dim += is_new_dim && dim <= first->dim;
  return {place};
}

Verdict concatenated(Step& step) { return joined(step, false); }
Verdict stacked(Step& step) { return joined(step, true); }

/// copy_ into a tensor created for it; otherwise the storage's placement would be unknown.
Verdict copied(Step& step) {
  auto *from = step.place(1), *onto = step.place(0);
  auto &self = step.tensor(0), &source = step.tensor(1);
  if (!from) {
    auto d = onto->dim - (self.dim() - source.dim());
    if (d >= 0 && !step.fits(source, d, *onto)) return meets_another(source, d, *onto);
    return {*onto};
  }
  auto place = *from;
  place.dim += self.dim() - source.dim();
  if (!onto || *onto != place) return {{}, "writes split elements over ones that are not split like them"};
  return {place};
}

}  // namespace

Verdict elementwise(Step& step) {
  auto is_out = [&](const at::Tensor& x) {
    auto* out = step.named("out");
    return out && out->isTensor() && out->toTensor().is_same(x);
  };
  int64_t dims = 0;
  for (auto& x : step.op.inputs) dims = std::max(dims, x.dim());
  std::optional<SamplePlacement> result;
  for (size_t i = 0; i < step.op.inputs.size(); ++i) {
    auto& x = step.op.inputs[i];
    auto* place = step.follow.of(x);
    if (!place || is_out(x)) continue;
    auto here = *place;
    here.dim += dims - x.dim();
    if (!result) result = here;
    if (*result == here) continue;
    if (result->dim != here.dim || result->global_extent() != here.global_extent())
      return {{}, "meets tensors that are split differently"};
    auto like = *result;
    like.dim = place->dim;
    step.redistributed.push_back({i, like});
  }
  if (!result) return {{}, "writes what is not split over split elements"};
  for (auto& x : step.op.inputs) {
    auto d = result->dim - (dims - x.dim());
    if (step.follow.of(x) || d < 0 || is_out(x)) continue;
    if (!step.fits(x, d, *result)) return meets_another(x, d, *result);
  }
  return {result};
}

Rule rule_of_math(std::string_view name) {
  static const std::unordered_map<std::string_view, Rule> rules = {
      {"matmul", product_of_two},
      {"mm", product_of_two},
      {"bmm", product_of_two},
      {"mv", product_of_two},
      {"addmm", product_added},
      {"baddbmm", product_added},
      {"linear", linear},
      {"cdist", distances},
      {"layer_norm", normalised_last},
      {"native_layer_norm", normalised_last},
      {"rms_norm", normalised_last},
      {"group_norm", normalised_by_sample},
      {"instance_norm", normalised_by_sample},
      {"batch_norm", normalised_by_batch},
      {"softmax", along},
      {"log_softmax", along},
      {"_softmax", along},
      {"_log_softmax", along},
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
      {"gather", picked},
      {"scatter", picked},
      {"scatter_add", picked},
      {"cat", concatenated},
      {"concat", concatenated},
      {"stack", stacked},
      {"copy", copied},
      {"type_as", kept_if_own},
      {"expand_as", expanded_as},
      // Elementwise, but without the pointwise tag.
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
      {"log_sigmoid", elementwise},
  };
  auto found = rules.find(name);
  return found == rules.end() ? nullptr : found->second;
}

}  // namespace wanpar
