#include "wan/setup/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace wan::setup {
namespace {

constexpr std::array<const char*, 3> kWords = {"ok", "warn", "fail"};

const char* word(State state) { return kWords[static_cast<size_t>(state)]; }

nlohmann::json as_json(const Findings& findings) {
  auto all = nlohmann::json::array();
  for (auto& one : findings) {
    all.push_back(
        {{"what", one.what}, {"state", word(one.state)}, {"found", one.found}, {"remedy", one.remedy}});
    all.back()["rank"] = one.rank < 0 ? nlohmann::json() : nlohmann::json(one.rank);
  }
  return all;
}

std::string text_of(const nlohmann::json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Findings of_all_ranks(const std::vector<Findings>& ranks) {
  Findings all;
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    for (auto& one : ranks[rank]) {
      auto known = std::find_if(all.begin(), all.end(), [&](auto& other) { return other.what == one.what; });
      if (known == all.end()) {
        all.push_back(one);
        if (rank > 0) all.back().rank = static_cast<int>(rank);
      } else if (one.state > known->state) {
        *known = one;
        known->rank = static_cast<int>(rank);
      }
    }
  return all;
}

State worst_of(const Findings& findings) {
  auto worst = State::ok;
  for (auto& one : findings) worst = std::max(worst, one.state);
  return worst;
}

std::string table(const Findings& findings) {
  constexpr std::array<const char*, 3> kColumn = {"OK  ", "WARN", "FAIL"};
  std::string text;
  size_t width = 0;
  std::array<int, 3> counts{};
  for (auto& one : findings) width = std::max(width, one.what.size());
  for (auto& one : findings) {
    ++counts[static_cast<size_t>(one.state)];
    const auto who = one.rank < 0 ? "" : fmt::format("rank {}: ", one.rank);
    text += fmt::format("{}  {:{}}  {}{}\n", kColumn[static_cast<size_t>(one.state)], one.what, width, who,
                        one.found);
    if (!one.remedy.empty()) text += fmt::format("{:{}}{}\n", "", width + 8, "→ " + one.remedy);
  }
  return text + fmt::format("{} ok, {} to look at, {} failed\n", counts[0], counts[1], counts[2]);
}

std::string json(const Findings& findings) {
  return text_of({{"state", word(worst_of(findings))}, {"findings", as_json(findings)}}, 2) + "\n";
}

std::string written(const Findings& findings) { return text_of(as_json(findings), -1); }

Findings read(const std::string& text) {
  Findings all;
  for (auto& one : nlohmann::json::parse(text)) {
    const auto state =
        std::find(kWords.begin(), kWords.end(), one["state"].get<std::string>()) - kWords.begin();
    all.push_back({one["what"], static_cast<State>(state), one["found"], one["remedy"]});
  }
  return all;
}

}  // namespace wan::setup
