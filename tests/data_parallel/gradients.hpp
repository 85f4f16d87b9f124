#pragma once
#include <fmt/format.h>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>

#include <algorithm>
#include <map>
#include <string>

#include "samples.hpp"
#include "worlds.hpp"

inline constexpr int64_t kSmallBucket = 2000;  // several buckets for a Classifier

inline wanpar::DataParallel<wanpar::Model> parallel(wanpar::Model model,
                                                    wanpar::DataParallelOptions options) {
  return {model, std::move(options)};
}

/// What one rank has: each parameter's gradient, under its name.
inline std::map<std::string, at::Tensor> gradients(Classifier& model) {
  std::map<std::string, at::Tensor> all;
  for (auto& item : model->named_parameters()) all[item.key()] = item.value().grad();
  return all;
}

inline void require_same_gradients(Classifier& model, Classifier& expected, const std::string& claim) {
  auto all = gradients(model);
  for (auto& [name, gradient] : gradients(expected)) {
    require(all[name].defined() == gradient.defined(), fmt::format("{}: {} is there", claim, name));
    if (!gradient.defined()) continue;
    auto scale = std::max(1.0, gradient.abs().max().item<double>());
    require_close(all[name], gradient, 1e-10 * scale, claim + ": " + name);
  }
}

/// The samples that a rank has of a batch that all ranks share evenly.
inline at::Tensor part(const at::Tensor& x, const wanpar::Communicator& world) {
  auto each = x.size(0) / world.size();
  return x.narrow(0, world.rank() * each, each);
}
