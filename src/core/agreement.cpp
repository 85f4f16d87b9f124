#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <sstream>
#include <wanpar/core/agreement.hpp>

#include "core/hash.hpp"
#include "core/sentence.hpp"

namespace wanpar {
namespace {

int64_t size(const std::string& text) { return static_cast<int64_t>(text.size()); }

/// Collective. Broadcasts the root's text, in a message of fixed size.
std::string broadcast_text(const Communicator& group, const std::string& text, int64_t length, int root) {
  if (length == 0) return {};
  auto bytes = at::zeros({length}, at::kByte);
  if (group.rank() == root) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  bytes = group.broadcast(bytes.to(group.device()), root).get().cpu();
  return {static_cast<const char*>(bytes.data_ptr()), static_cast<size_t>(length)};
}

/// The message of the exception that `action` throws; empty if it succeeds.
std::string failure_of(const std::function<void()>& action) {
  try {
    action();
    return {};
  } catch (...) {
    return sentence_at_hand();
  }
}

/// The first line in which two texts differ, from each text.
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  std::istringstream left(a), right(b);
  std::string one, other;
  bool is_left = true, is_right = true;
  while (one == other && (is_left || is_right)) {
    is_left = static_cast<bool>(std::getline(left, one));
    is_right = static_cast<bool>(std::getline(right, other));
    if (!is_left) one = "nothing more";
    if (!is_right) other = is_left || is_right ? "nothing more" : "an empty line more, or less";
  }
  return {one, other};
}

/// The message about the first difference that the group finds, or that one of its ranks already had.
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

void all_or_none(const Communicator& group, const std::function<void()>& action) {
  if (group.size() == 1) return action();
  for (auto& failure : all_gather_text(group, failure_of(action)))
    if (!failure.empty()) throw AgreedError(failure);
}

std::string broadcast_text(const Communicator& group, int root, const std::function<std::string()>& make) {
  constexpr int64_t kBytes = 1024;
  constexpr char kSays = '+', kFailed = '-';
  std::string text;
  if (group.rank() == root) {
    auto failure = failure_of([&] { text = make(); });
    if (failure.empty() && size(text) > kBytes - 1)
      failure = fmt::format("a text of {} bytes, of which {} can be told", text.size(), kBytes - 1);
    text = failure.empty() ? kSays + text : kFailed + failure.substr(0, kBytes - 1);
  }
  text = broadcast_text(group, text, kBytes, root);
  text.resize(std::strlen(text.c_str()));
  if (text[0] == kFailed) throw AgreedError(text.substr(1));
  return text.substr(1);
}

std::vector<std::string> all_gather_text(const Communicator& group, const std::string& text) {
  auto lengths = group.all_gather(at::tensor({size(text)}, at::kLong).to(group.device())).get().cpu();
  std::vector<std::string> texts;
  for (int rank = 0; rank < group.size(); ++rank)
    texts.push_back(broadcast_text(group, text, lengths[rank].item<int64_t>(), rank));
  return texts;
}

bool on_any_rank(const Communicator& group, bool is_so) {
  auto mine = at::full({1}, is_so ? 1.0 : 0.0, at::TensorOptions(at::kDouble).device(group.device()));
  return group.all_reduce(std::move(mine), ReduceOp::max).get().item<double>() > 0;
}

void require_same(const std::string& who, const std::string& what, const std::vector<Communicator>& groups,
                  const std::string& lines, const std::string& advice) {
  std::string found;
  for (auto& group : groups)
    if (group.size() > 1) found = differing(who, what, group, lines, found);
  if (!found.empty()) throw AgreedMismatchError(advice.empty() ? found : found + "; " + advice);
}

void Vote::go_on(const std::string& path, int64_t fingerprint) const {
  const auto way = hashed_with(stable_hash(path), fingerprint);
  const auto mine = static_cast<int64_t>(way) >> 1;  // can be negated without overflow
  auto all = greatest(at::tensor({mine, -mine, int64_t{-1}}, at::kLong));
  if (auto failed = all[2].item<int64_t>(); failed >= 0)
    throw AgreedError(
        fmt::format("{}: rank {} could not go on, and says why; so no rank does", who_, failed));
  if (all[0].item<int64_t>() != -all[1].item<int64_t>())
    throw AgreedMismatchError(fmt::format(
        "{}: the ranks took different paths through the module, this one to {}; a module may not loop or "
        "branch by how many tokens a rank holds: loop over x.unbind(dim), which has all of them, instead of "
        "counting to x.size(dim)",
        who_, path));
}

void Vote::refuse() const {
  const auto none = std::numeric_limits<int64_t>::min();
  greatest(at::tensor({none, none, position()}, at::kLong));
}

/// This rank's number in the grid.
int64_t Vote::position() const {
  int64_t position = 0;
  for (auto group = grid_.rbegin(); group != grid_.rend(); ++group)
    position = position * group->size() + group->rank();
  return position;
}

at::Tensor Vote::greatest(at::Tensor x) const try {
  for (auto& group : grid_)
    if (group.size() > 1) x = group.all_reduce(x.to(group.device()), ReduceOp::max).get();
  return x.cpu();
} catch (const AgreedError& error) {
  for (auto& group : grid_)
    group.fail(error.what());  // tells ranks that share no axis with the one that failed
  throw;
}

}  // namespace wanpar
