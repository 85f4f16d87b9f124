#include "wan/demo/rules.hpp"

#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

#include "wan/demo/random.hpp"

namespace wan::demo {

std::map<std::string, at::Tensor> draw_all(const torch::nn::Module& module, const std::vector<Rule>& rules) {
  std::map<std::string, at::Tensor> weights;
  for (const auto& parameter : module.named_parameters()) {
    const auto& name = parameter.key();
    const auto rule = std::find_if(rules.begin(), rules.end(), [&](const Rule& rule) {
      return name.find(rule.part) != std::string::npos;
    });
    if (rule == rules.end()) throw wanpar::Error(fmt::format("demo checkpoint: no rule makes '{}'", name));
    weights[name] = rule->draw(name, parameter.value().sizes());
  }
  return weights;
}

Draw constant(double value) {
  return [=](const std::string&, at::IntArrayRef shape) { return at::full(shape, value, at::kFloat); };
}

Draw spread(double gain) {
  return [=](const std::string& name, at::IntArrayRef shape) { return normal_weight(name, shape, gain); };
}

Draw small(double size) {
  return [=](const std::string& name, at::IntArrayRef shape) { return normal(name, shape) * size; };
}

Draw identity(double scale) {
  return [=](const std::string&, at::IntArrayRef shape) {
    return (at::eye(shape[0], shape[1]) * scale).reshape(shape);
  };
}

}  // namespace wan::demo
