#include "transport/blame.hpp"

#include <algorithm>
#include <set>
#include <vector>

namespace wanpar {

States Blame::of(const States& some, const States& found, int self) const {
  auto is_still_so = [&](const std::pair<const int, State>& said) {  // or the teller had got over it
    auto [rank, state] = said;
    auto now = found.find(rank);
    return state == State::behind || now == found.end() || now->second < State::behind;
  };
  States blamed;
  std::vector<std::pair<int, State>> open(some.begin(), some.end());
  std::set<int> seen;
  while (!open.empty()) {
    auto [rank, state] = open.back();
    open.pop_back();
    if (state == State::here || rank == self || !seen.insert(rank).second) continue;
    auto said = told_.find(rank);
    bool is_gone = state == State::ended || state == State::left;
    if (is_gone && said != told_.end() && std::ranges::all_of(said->second, is_still_so))
      open.insert(open.end(), said->second.begin(), said->second.end());
    else
      blamed[rank] = state;
  }
  if (blamed.empty()) return blamed;
  auto worst = std::ranges::min_element(blamed, {}, &States::value_type::second)->second;
  std::erase_if(blamed, [&](auto& one) { return one.second != worst; });
  return blamed;
}

std::string how(const States& blamed) {
  switch (blamed.begin()->second) {
    case State::ended:
      return "ended, and was probably killed or crashed";
    case State::left:
      return "left the group: its program failed, or returned early";
    case State::silent:
      return "gave no answer: it is stopped, or out of reach";
    default:
      return "answered, but made no such call";
  }
}

}  // namespace wanpar
