#include "wan/io/load.hpp"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <array>
#include <utility>

#include "wanpar/core/error.hpp"

namespace wan {
namespace {

using Slots = std::map<std::string, at::Tensor>;

Slots slots_of(const torch::nn::Module& module) {
  Slots slots;
  for (const auto& item : module.named_parameters()) slots.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers()) slots.emplace(item.key(), item.value());
  return slots;
}

/// The name by which a file has, or should have, the tensor of a parameter.
std::string own_name(const std::string& name, const LoadOptions& options) {
  return options.name_in_file ? options.name_in_file(name) : name;
}

std::string own_name(const std::string& name, const Entry& entry) {
  return entry.name.empty() ? name : entry.name;
}

void check_no_missing(const Slots& slots, const Weights& weights, const LoadOptions& options) {
  for (const auto& [name, slot] : slots) {
    if (weights.contains(name)) continue;
    const auto where = weights.empty() ? "the checkpoint" : weights.begin()->second.file.string();
    throw wanpar::Error(fmt::format("{}: tensor '{}' is missing, expected with shape [{}]", where,
                                    own_name(name, options), fmt::join(slot.sizes(), ", ")));
  }
}

/// Files of quantised weights have, beside them, tensors that say how much they are to be scaled by.
bool is_scale(const std::string& name) {
  constexpr std::array kMarks = {"scale_weight", "weight_scale", "scale_input",
                                 "input_scale",  "scaled_fp8",   "comfy_quant"};
  return std::any_of(kMarks.begin(), kMarks.end(),
                     [&](const char* mark) { return name.find(mark) != std::string::npos; });
}

void check_no_unexpected(const Slots& slots, const Weights& weights, const LoadOptions& options) {
  const auto is_ignored = [&](const std::string& name) {
    return std::any_of(options.ignore_prefixes.begin(), options.ignore_prefixes.end(),
                       [&](const std::string& prefix) { return name.starts_with(prefix); });
  };
  for (const auto& [name, entry] : weights) {
    if (is_scale(name))
      throw wanpar::Error(
          fmt::format("{}: '{}' is the scale of quantised weights (scaled fp8), which are not "
                      "built; give the weights in float32, bfloat16, float16 or plain fp8",
                      entry.file.string(), own_name(name, entry)));
    if (slots.contains(name) || is_ignored(name)) continue;
    throw wanpar::Error(fmt::format("{}: tensor '{}' of shape [{}] has no place in the model",
                                    entry.file.string(), own_name(name, entry),
                                    fmt::join(entry.tensor.sizes(), ", ")));
  }
}

void check_tensors(const Slots& slots, const Weights& weights) {
  for (const auto& [name, slot] : slots) {
    const auto& entry = weights.at(name);
    if (!entry.tensor.is_floating_point())
      throw wanpar::Error(fmt::format("{}: tensor '{}' holds {}, and weights are floating point numbers",
                                      entry.file.string(), own_name(name, entry),
                                      c10::toString(entry.tensor.scalar_type())));
    if (entry.tensor.sizes() == slot.sizes()) continue;
    throw wanpar::Error(fmt::format("{}: tensor '{}' has shape [{}], expected [{}]", entry.file.string(),
                                    own_name(name, entry), fmt::join(entry.tensor.sizes(), ", "),
                                    fmt::join(slot.sizes(), ", ")));
  }
}

/// Puts `slot` on the memory of `data`. LibTorch wants both made in inference mode or both outside it:
/// whichever the slot was, the memory gets a tensor of the same kind.
void give(at::Tensor& slot, const at::Tensor& data) {
  const c10::InferenceMode mode(slot.is_inference());
  auto tensor = at::empty({0}, data.options());
  slot.set_data(tensor.set_(data.storage(), data.storage_offset(), data.sizes(), data.strides()));
}

at::ScalarType dtype_of(const std::string& name, const LoadOptions& options) {
  const auto is_part = [&](const std::string& part) { return name.find(part) != std::string::npos; };
  const auto& kept = options.keep_float32;
  return std::any_of(kept.begin(), kept.end(), is_part) ? at::kFloat : options.dtype;
}

}  // namespace

void check(const torch::nn::Module& module, const Weights& weights, const LoadOptions& options) {
  const auto slots = slots_of(module);
  check_no_missing(slots, weights, options);
  check_no_unexpected(slots, weights, options);
  check_tensors(slots, weights);
}

void load(torch::nn::Module& module, const Weights& weights, const LoadOptions& options) {
  check(module, weights, options);
  for (auto& [name, slot] : slots_of(module)) {
    const auto& tensor = weights.at(name).tensor;
    give(slot, tensor.to(options.device, dtype_of(name, options)).contiguous());
    if (options.loaded) options.loaded(tensor.nbytes());
  }
}

void prepare(torch::nn::Module& module, const LoadOptions& options) {
  for (auto& [name, slot] : slots_of(module))
    slot.set_data(at::empty(slot.sizes(), at::dtype(dtype_of(name, options)).device(options.device)));
}

Ranges ranges_for(const torch::nn::Module& module, Weights weights, const LoadOptions& options) {
  check(module, weights, options);
  return [weights = std::move(weights), loaded = options.loaded](const std::string& name, int64_t begin,
                                                                 int64_t end) {
    auto part = weights.at(name).tensor.flatten().slice(0, begin, end);  // a view, for files lie row by row
    if (loaded) loaded(part.nbytes());
    return part;
  };
}

}  // namespace wan
