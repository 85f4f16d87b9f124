#include "strategy/same_module.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// FNV-1a: the same number in every process, which std::hash does not promise.
uint64_t hash(std::string_view text) {
  uint64_t value = 14695981039346656037u;
  for (unsigned char c : text) value = (value ^ c) * 1099511628211u;
  return value;
}

}  // namespace

void check_same_module(const Communicator& group, const NamedTensors& tensors, std::string_view strategy) {
  if (group.size() == 1) return;
  std::string text;
  int64_t elements = 0;
  for (auto& [name, tensor] : tensors) {
    text += fmt::format("{} {}{}\n", name, c10::toString(tensor.scalar_type()), tensor.sizes());
    elements += tensor.numel();
  }
  auto count = static_cast<int64_t>(tensors.size());
  auto mine = at::tensor({static_cast<int64_t>(hash(text)), count, elements}, at::kLong).to(group.device());
  auto all = group.all_gather(mine).get().cpu().view({group.size(), 3});
  auto number = [&](int rank, int what) { return all[rank][what].item<int64_t>(); };
  for (int rank = 1; rank < group.size(); ++rank)
    if (number(rank, 0) != number(0, 0))
      throw Error(
          fmt::format("{}: the modules of rank 0 ({} parameters and buffers, {} elements) and of rank {} "
                      "({}, {}) differ in "
                      "names, shapes or dtypes; every rank must construct the same module",
                      strategy, number(0, 1), number(0, 2), rank, number(rank, 1), number(rank, 2)));
}

}  // namespace wanpar
