#pragma once
#include <string>
#include <vector>

namespace wan::setup {

enum class State { ok, warn, fail };

/// A line of the table: what was looked at, what there is, and what to do about it where it is not well.
struct Finding {
  std::string what;
  State state;
  std::string found;
  std::string remedy = {};  ///< empty where it is well
  int rank = -1;            ///< of which it is; −1: of all
};

using Findings = std::vector<Finding>;

inline Finding ok(std::string what, std::string found) {
  return {std::move(what), State::ok, std::move(found)};
}
inline Finding warn(std::string what, std::string found, std::string remedy) {
  return {std::move(what), State::warn, std::move(found), std::move(remedy)};
}
inline Finding fail(std::string what, std::string found, std::string remedy) {
  return {std::move(what), State::fail, std::move(found), std::move(remedy)};
}

}  // namespace wan::setup
