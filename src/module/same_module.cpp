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

int64_t size(const std::string& text) { return static_cast<int64_t>(text.size()); }

/// What a group finds: a sentence that names the first difference, or one that a rank of it came with.
std::string differing(const std::string& who, const std::string& what, const Communicator& group,
                      const std::string& lines, const std::string& known) {
  auto mine = at::tensor({stable_hash(lines), size(lines), size(known)}, at::kLong).to(group.device());
  auto all = group.all_gather(std::move(mine)).get().view({group.size(), 3}).cpu();
  auto number = [&](int rank, int column) { return all[rank][column].item<int64_t>(); };

  for (int rank = 0; rank < group.size(); ++rank)
    if (number(rank, 2) > 0) return broadcast_text(group, known, number(rank, 2), rank);
  for (int rank = 1; rank < group.size(); ++rank) {
    if (number(rank, 0) == number(0, 0) && number(rank, 1) == number(0, 1)) continue;
    auto first = broadcast_text(group, lines, number(0, 1), 0);
    auto second = broadcast_text(group, lines, number(rank, 1), rank);
    auto [one, other] = first_difference(first, second);
    return fmt::format("{}: the ranks have different {}: where rank 0 has {}, rank {} has {}", who, what, one,
                       rank, other);
  }
  return {};
}

}  // namespace

void check_same(const std::string& who, const std::string& what, const std::vector<Communicator>& groups,
                const std::string& lines) {
  std::string found;
  for (auto& group : groups)
    if (group.size() > 1) found = differing(who, what, group, lines, found);
  if (!found.empty()) throw Error(found);
}

void check_same_module(const std::string& who, const std::vector<Communicator>& groups,
                       const NamedTensors& tensors) {
  check_same(who, "modules", groups, describe(tensors));
}

}  // namespace wanpar
