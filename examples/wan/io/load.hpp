#pragma once
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <functional>
#include <string>
#include <vector>

#include "wan/io/weights.hpp"

namespace torch::nn {
class Module;
}

namespace wan {

struct LoadOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  std::vector<std::string> keep_float32 = {};     // parts of the names whose tensors are float32 in any case
  std::vector<std::string> ignore_prefixes = {};  // starts of the names that the module need not have
  std::function<std::string(const std::string&)> name_in_file = {};  // for errors: of a parameter's name
  std::function<void(size_t bytes)> loaded = {};                     // hears of every tensor, or part of one
};

/// Throws Error, naming file, key, expected and found, when a tensor is missing, unexpected, misshaped, or of
/// numbers that are no weights.
void check(const torch::nn::Module& module, const Weights& weights, const LoadOptions& options);

/// Gives every parameter and buffer of `module` its tensor, converted one at a time: what has the right dtype
/// and device already is used where it lies in the file, without a copy.
/// Throws Error like check(); the module is untouched then.
void load(torch::nn::Module& module, const Weights& weights, const LoadOptions& options);

/// Gives every parameter and buffer of `module` the dtype and device that load() would, and no values: for a
/// module that is under construction within wanpar::deferred().
void prepare(torch::nn::Module& module, const LoadOptions& options);

/// Gives the elements [begin, end) of a tensor, flat, as they lie in the file.
using Ranges = std::function<at::Tensor(const std::string& name, int64_t begin, int64_t end)>;

/// For a module of which each rank loads a part only: no byte of the file is read that is not asked for.
/// Throws Error like check().
Ranges ranges_for(const torch::nn::Module& module, Weights weights, const LoadOptions& options);

}  // namespace wan
