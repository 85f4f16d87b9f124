#pragma once
#include <ATen/core/Generator.h>
#include <torch/nn.h>

#include <cstdint>
#include <functional>
#include <string>

namespace wan::train {

/// Whether a name has such a part.
bool has(const std::string& name, const char* part);

/// Gives every parameter its first values, by `fill`, from a generator of its own: of the seed and the
/// parameter's place.
void fill_each(torch::nn::Module& module, uint64_t seed,
               const std::function<void(const std::string& name, at::Tensor parameter, at::Generator)>& fill);

/// Normal values that keep the spread of a layer's input, times `gain`; the weight is [out, in, ...].
void fill_layer(at::Tensor weight, at::Generator generator, double gain = 1);

}  // namespace wan::train
