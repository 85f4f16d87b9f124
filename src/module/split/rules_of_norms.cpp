// Norms. Over dimensions that are not sharded they are local; over sharded ones, ranks all-reduce the
// moments.
#include <ATen/ATen.h>

#include <algorithm>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

const OutputPlacement kSum{OutputPlacement::partial_sum};

/// The normalised dimensions: the last ones, as many as the shape argument has.
bool is_apart(const SplitCall& call, const SplitPlacement& place, size_t x, size_t shape) {
  return place.dim < call.tensor(x).dim() - static_cast<int64_t>(call.argument(shape).toIntVector().size());
}

/// native_layer_norm(x, shape, …), _fused_rms_norm: their other outputs are per token, too.
bool normalised_last(SplitCall& call) {
  auto* place = call.place(0);
  if (!place || !is_apart(call, *place, 0, 1)) return false;
  const auto like = *place;
  call.give_own_part(0);
  for (size_t i = 2; i < call.size(); ++i)
    if (call.tensor(i).defined()) call.give_full(i);
  return call.run({{OutputPlacement::sharded, like}});
}

/// (gradient, x, shape, mean, rstd, weight, bias, mask), or without mean and bias.
bool normalised_last_backward(SplitCall& call, std::initializer_list<size_t> of_tokens) {
  for (auto i : of_tokens) {
    if (!call.place(i)) continue;
    const auto like = *call.place(i);
    if (!is_apart(call, like, 1, 2)) return false;
    for (size_t j = 0; j < call.size(); ++j)
      if (!call.tensor(j).defined())
        continue;
      else if (std::count(of_tokens.begin(), of_tokens.end(), j))
        call.give_part(j, like);
      else
        call.give_full(j);
    return call.run({{OutputPlacement::sharded, like}, kSum});
  }
  return false;
}
bool layer_norm_backward(SplitCall& call) { return normalised_last_backward(call, {0, 1, 3, 4}); }
bool rms_norm_backward(SplitCall& call) { return normalised_last_backward(call, {0, 1, 3}); }

at::ScalarType accumulation_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Reshapes per-channel values to broadcast to tensors of so many dimensions.
at::Tensor of_channels(const at::Tensor& x, int64_t dims) {
  std::vector<int64_t> sizes(dims, 1);
  sizes[1] = x.numel();
  return x.view(sizes);
}
/// Likewise for values per sample and channel [samples, channels].
at::Tensor of_each(const at::Tensor& x, int64_t dims) {
  auto sizes = x.sizes().vec();
  sizes.resize(dims, 1);
  return x.view(sizes);
}

/// native_group_norm(x, weight, bias, samples, channels, places, groups, eps) = (y, mean, rstd)
bool group_norm(SplitCall& call) {
  auto* found = call.place(0);
  if (!found) return false;
  const auto place = *found;
  auto x = as_split(call.tensor(0))->part();
  const auto groups = call.argument(6).toInt();
  if (place.dim == 0) {
    call.give_own_part(0);
    call.give(3, place.extent());
    return call.run({{OutputPlacement::sharded, place}});
  }
  if (place.dim == 1) return false;
  const auto count = static_cast<double>(call.tensor(0).numel() / call.tensor(0).size(0) / groups);
  auto in_groups = x.to(accumulation_type(x)).reshape({x.size(0), groups, x.numel() ? -1 : 0});
  auto sums = [&] { return at::stack({in_groups.sum(2), in_groups.square().sum(2)}); };
  const auto eps = call.named("eps")->toDouble();
  at::Tensor mean, rstd, centered;
  if (const auto moments = call.group().moments(sums, static_cast<double>(in_groups.size(2)))) {
    mean = (*moments)[0], rstd = ((*moments)[1] + eps).rsqrt();
    centered = in_groups - mean.unsqueeze(2);
  } else {
    mean = call.group().sum(in_groups.sum(2)) / count;
    centered = in_groups - mean.unsqueeze(2);
    rstd = (call.group().sum(centered.square().sum(2)) / count + eps).rsqrt();
  }
  auto y = (centered * rstd.unsqueeze(2)).view(x.sizes());
  if (auto& weight = call.tensor(1); weight.defined()) y = y * of_channels(full_tensor(weight), x.dim());
  if (auto& bias = call.tensor(2); bias.defined()) y = y + of_channels(full_tensor(bias), x.dim());
  const auto like = call.tensor(0).scalar_type();
  return call.result({y.to(like), mean.to(like), rstd.to(like)},
                     {{OutputPlacement::sharded, place}, {OutputPlacement::replicated}});
}

/// (gradient, x, mean, rstd, weight, samples, channels, places, groups, mask): of a group of n elements,
/// dx = rstd (w dy − (Σ w dy + x̂ Σ w dy x̂) / n).
bool group_norm_backward(SplitCall& call) {
  auto* found = call.place(1) ? call.place(1) : call.place(0);
  if (!found || found->dim < 2) return false;
  const auto place = *found;
  const auto groups = call.argument(8).toInt();
  auto x = call.part(call.tensor(1), place), dy = call.part(call.tensor(0), place);
  const auto type = accumulation_type(x);
  const auto count = static_cast<double>(call.tensor(1).numel() / call.tensor(1).size(0) / groups);
  const auto channels = call.argument(6).toInt(), samples = x.size(0), dims = x.dim();
  auto of_group = [&](const at::Tensor& each) {  // [samples, groups], repeated per channel
    return of_each(
        each.to(type).unsqueeze(2).expand({samples, groups, channels / groups}).reshape({samples, channels}),
        dims);
  };
  auto rstd = of_group(full_tensor(call.tensor(3))), mean = of_group(full_tensor(call.tensor(2)));
  auto normal = (x.to(type) - mean) * rstd, gradient = dy.to(type);
  auto by_channel = [&](const at::Tensor& t) {
    return t.reshape({samples, channels, t.numel() ? -1 : 0}).sum(2);
  };
  auto sums = call.group().sum(at::stack({by_channel(gradient), by_channel(gradient * normal)}));
  auto weight = call.tensor(4).defined() ? full_tensor(call.tensor(4)).to(type)
                                         : at::ones({channels}, x.options().dtype(type));
  auto weighted = (sums * weight).view({2, samples, groups, channels / groups}).sum(3) / count;
  auto dx =
      rstd * (gradient * of_channels(weight, dims) - of_group(weighted[0]) - normal * of_group(weighted[1]));
  const auto like = call.tensor(1).scalar_type();
  const auto mask = call.argument(9).toBoolList();
  at::Tensor none;
  return call.result(
      {dx.to(like), mask[1] ? sums[1].sum(0).to(like) : none, mask[2] ? sums[0].sum(0).to(like) : none},
      {{OutputPlacement::sharded, place}, {OutputPlacement::replicated}});
}

/// Batch norm with given statistics; not in training.
bool batch_norm(SplitCall& call) {
  auto* place = call.place(0);
  if (!place || place->dim == 1 || call.named("training")->toBool()) return false;
  const auto like = *place;
  call.give_own_part(0);
  return call.run({{OutputPlacement::sharded, like}, {OutputPlacement::replicated}});
}

bool batch_norm_backward(SplitCall& call) {
  auto* place = call.place(1) ? call.place(1) : call.place(0);
  if (!place || place->dim == 1 || call.named("train")->toBool()) return false;
  const auto like = *place;
  call.give_part(0, like);
  call.give_part(1, like);
  return call.run({{OutputPlacement::sharded, like}, kSum});
}

}  // namespace

const SplitRules& rules_of_norms() {
  static const SplitRules rules = {
      {"native_layer_norm", normalised_last}, {"native_layer_norm_backward", layer_norm_backward},
      {"_fused_rms_norm", normalised_last},   {"_fused_rms_norm_backward", rms_norm_backward},
      {"native_group_norm", group_norm},      {"native_group_norm_backward", group_norm_backward},
      {"native_batch_norm", batch_norm},      {"native_batch_norm_backward", batch_norm_backward},
  };
  return rules;
}

}  // namespace wanpar
