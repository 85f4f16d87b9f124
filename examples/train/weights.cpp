#include "train/weights.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "train/random.hpp"

namespace wan::train {
bool has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }

void fill_each(
    torch::nn::Module& module, uint64_t seed,
    const std::function<void(const std::string& name, at::Tensor parameter, at::Generator)>& fill) {
  at::NoGradGuard no_grad;
  uint64_t index = 0;
  for (const auto& parameter : module.named_parameters()) {
    const auto generator =
        at::make_generator<at::CPUGeneratorImpl>(Random(seed, Stream::weights, index++).next());
    fill(parameter.key(), parameter.value(), generator);
  }
}

void fill_layer(at::Tensor weight, at::Generator generator, double gain) {
  const auto fan_in = static_cast<double>(c10::multiply_integers(weight.sizes().slice(1)));
  weight.normal_(0, gain / std::sqrt(fan_in), generator);
}

}  // namespace wan::train
