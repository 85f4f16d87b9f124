#pragma once
#include <ATen/core/Tensor.h>
#include <torch/nn.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace wan::demo {

/// How a parameter is made, from its official name and shape.
using Draw = std::function<at::Tensor(const std::string& name, at::IntArrayRef shape)>;

struct Rule {
  std::string part;  ///< of the parameter's name
  Draw draw;
};

/// A tensor for every parameter of `module`, each by the first rule that its name has a part of.
/// Throws Error when no rule fits.
std::map<std::string, at::Tensor> draw_all(const torch::nn::Module& module, const std::vector<Rule>& rules);

Draw constant(double value);
Draw spread(double gain);  ///< normal values; the layer multiplies the spread of its input by `gain`
Draw small(double size);   ///< normal values of that size
Draw identity(double scale);

}  // namespace wan::demo
