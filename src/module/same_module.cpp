#include "module/same_module.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <set>
#include <sstream>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// A line for each tensor: "blocks.3.weight Float[4, 8]".
std::string text_of(const NamedTensors& tensors) {
  std::string text;
  for (auto& [name, tensor] : tensors)
    text += fmt::format("{} {}{}\n", name, c10::toString(tensor.scalar_type()), tensor.sizes());
  return text;
}

bool each_holds_its_own(const std::vector<std::string>& texts) {
  struct Holders {
    std::string line;
    std::set<size_t> ranks;
  };
  std::map<std::string, Holders> holders;  // by name
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    std::istringstream lines(texts[rank]);
    for (std::string line; std::getline(lines, line);) {
      auto [known, is_new] = holders.try_emplace(line.substr(0, line.find(' ')), Holders{line, {}});
      if (known->second.line != line) return false;
      known->second.ranks.insert(rank);
    }
  }
  std::set<size_t> owners;
  for (auto& [name, held] : holders) {
    if (held.ranks.size() == texts.size()) continue;
    if (held.ranks.size() > 1) return false;
    owners.insert(*held.ranks.begin());
  }
  return owners.size() == texts.size();
}

}  // namespace

void require_same_module(const std::string& who, const std::vector<Communicator>& groups,
                         const NamedTensors& tensors) {
  require_same(who, "modules", groups, text_of(tensors));
}

bool require_same_or_own(const std::string& who, const Communicator& group, const NamedTensors& tensors) {
  try {
    require_same_module(who, {group}, tensors);
    return false;
  } catch (const AgreedError&) {
    if (each_holds_its_own(all_gather_text(group, text_of(tensors)))) return true;
    throw;
  }
}

}  // namespace wanpar
