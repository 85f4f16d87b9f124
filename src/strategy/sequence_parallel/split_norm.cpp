#include "strategy/sequence_parallel/split_norm.hpp"

#include <ATen/ATen.h>

#include "module/follow/rules.hpp"

namespace wanpar {

std::optional<SplitNorm> split_norm(const Follow& follow, const Operator& op) {
  const Step step{follow, op, {}, {}};
  bool is_instance = op.name == "aten::instance_norm";
  if (!is_instance && op.name != "aten::group_norm") return {};
  auto* place = step.place(0);
  if (!place || place->dim < 2) return {};
  auto has = [&](const char* name) {
    return step.named(name)->isTensor() && step.named(name)->toTensor().defined();
  };
  if (is_instance && (has("running_mean") || !step.named("use_input_stats")->toBool())) return {};
  auto groups = is_instance ? step.tensor(0).size(1) : step.named("num_groups")->toInt();
  return SplitNorm{*place, groups, step.named("eps")->toDouble(), has("weight"), has("bias")};
}

at::Tensor normalized(const SplitNorm& norm, std::span<const at::Tensor> inputs,
                      const std::function<at::Tensor(at::Tensor)>& summed) {
  auto& x = inputs[0];
  auto samples = x.size(0), channels = x.size(1);
  auto& at = norm.place;
  int64_t beside = channels / norm.groups;  // of a group, for each element of the split dimension
  for (int64_t d = 2; d < x.dim(); ++d)
    if (d != at.dim) beside *= x.size(d);
  const auto count = static_cast<double>(beside * at.before * at.total * at.after);

  auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto groups = x.to(wide).reshape({samples, norm.groups, beside * at.extent()});
  auto centered = groups - summed(groups.sum(2, true)) / count;
  auto variance = summed(centered.square().sum(2, true)) / count;
  auto result = (centered * (variance + norm.eps).rsqrt()).view(x.sizes());
  std::vector<int64_t> by_channel(x.dim(), 1);
  by_channel[1] = channels;
  if (norm.has_weight) result = result * inputs[1].view(by_channel);
  if (norm.has_bias) result = result + inputs.back().view(by_channel);
  return result.to(x.scalar_type());
}

}  // namespace wanpar
