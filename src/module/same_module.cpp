#include "module/same_module.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <sstream>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"

namespace wanpar {
namespace {

/// A line for each tensor: "blocks.3.weight Float[4, 8]".
std::string describe(const NamedTensors& tensors) {
  std::string text;
  for (auto& [name, tensor] : tensors)
    text += fmt::format("{} {}{}\n", name, c10::toString(tensor.scalar_type()), tensor.sizes());
  return text;
}

std::string broadcast_text(const Communicator& group, const std::string& text, int64_t length, int root) {
  auto bytes = at::zeros({length}, at::kByte);
  if (group.rank() == root) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  bytes = group.broadcast(bytes.to(group.device()), root).get().cpu();
  return {static_cast<const char*>(bytes.data_ptr()), static_cast<size_t>(length)};
}

/// The first line in which two texts differ, of each.
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  std::istringstream left(a), right(b);
  std::string one, other;
  do {
    if (!std::getline(left, one)) one = "nothing more";
    if (!std::getline(right, other)) other = "nothing more";
  } while (one == other);
  return {one, other};
}

}  // namespace

void check_same_module(const std::string& who, const Communicator& group, const NamedTensors& tensors) {
  if (group.size() == 1) return;
  auto text = describe(tensors);
  auto mine =
      at::tensor({stable_hash(text), static_cast<int64_t>(text.size())}, at::kLong).to(group.device());
  auto all = group.all_gather(std::move(mine)).get().view({group.size(), 2}).cpu();

  for (int rank = 1; rank < group.size(); ++rank) {
    if (all[rank].equal(all[0])) continue;
    auto first = broadcast_text(group, text, all[0][1].item<int64_t>(), 0);
    auto second = broadcast_text(group, text, all[rank][1].item<int64_t>(), rank);
    auto [one, other] = first_difference(first, second);
    throw Error(fmt::format("{}: the ranks have different modules: where rank 0 has {}, rank {} has {}", who,
                            one, rank, other));
  }
}

}  // namespace wanpar
