#include "strategy/sequence_parallel/split_norm.hpp"

#include <ATen/ATen.h>

#include "module/follow/rules.hpp"

namespace wanpar {

std::optional<SplitNorm> split_norm(const Follow& follow, const Operator& op) {
  const Step step{follow, op, {}};
  bool is_instance = op.name == "aten::instance_norm";
  if (!is_instance && op.name != "aten::group_norm") return {};
  auto* place = step.place(0);
  if (!place || place->dim < 2) return {};
  if (is_instance) {
    bool has_statistics =
        step.named("running_mean")->isTensor() && step.named("running_mean")->toTensor().defined();
    if (has_statistics || !step.named("use_input_stats")->toBool()) return {};
  }
  auto groups = is_instance ? step.tensor(0).size(1) : step.named("num_groups")->toInt();
  return SplitNorm{*place, groups, step.named("eps")->toDouble()};
}

at::Tensor normalized(const SplitNorm& norm, const at::Tensor& x, const at::Tensor& weight,
                      const at::Tensor& bias, const std::function<at::Tensor(at::Tensor)>& summed) {
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
  if (weight.defined()) result = result * weight.view(by_channel);
  if (bias.defined()) result = result + bias.view(by_channel);
  return result.to(x.scalar_type());
}

}  // namespace wanpar
