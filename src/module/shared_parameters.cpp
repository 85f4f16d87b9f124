#include "module/shared_parameters.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/graph_task.h>
#include <unistd.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// Identifies this rank's parameters: the process (by its id and an address), and each parameter's address.
at::Tensor places_of(const NamedTensors& parameters) {
  static const int here = 0;
  std::vector<int64_t> places{::getpid(), reinterpret_cast<int64_t>(&here)};
  for (auto& [name, tensor] : parameters)
    places.push_back(reinterpret_cast<int64_t>(tensor.unsafeGetTensorImpl()));
  return at::tensor(places, at::kLong).unsqueeze(0);
}

}  // namespace

bool are_shared(const std::vector<Communicator>& groups, const NamedTensors& parameters) {
  auto places = places_of(parameters);
  for (auto& group : groups) places = group.all_gather(places.to(group.device()), 0).get();
  places = places.cpu();
  for (int64_t a = 0; a < places.size(0); ++a)
    for (int64_t b = 0; b < a; ++b) {
      const auto is_same = places[a].eq(places[b]);
      bool is_one_process = is_same.narrow(0, 0, 2).all().item<bool>();
      if (is_one_process && is_same.narrow(0, 2, is_same.size(0) - 2).any().item<bool>()) return true;
    }
  return false;
}

void refuse_shared_accumulation(const std::string& who, const NamedTensors& parameters) {
  auto* tasks = torch::autograd::get_current_graph_task_exec_info();
  auto adds = [&](auto& task) {
    auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(task.first);
    return leaf && task.second.needed_ &&
           std::any_of(parameters.begin(), parameters.end(),
                       [&](auto& parameter) { return parameter.tensor.is_same(leaf->variable); });
  };
  // Empty: a backward() to all leaves. Otherwise a backward with inputs, or autograd::grad.
  if (tasks && (tasks->empty() || std::any_of(tasks->begin(), tasks->end(), adds)))
    throw UsageError(fmt::format(
        "{}: several ranks are threads that share this module's parameters, and each would add the "
        "gradient, which is the sum over all of them, to the same .grad; give each rank a module of "
        "its own, or take the gradients by torch::autograd::grad",
        who));
}

}  // namespace wanpar
