#include "module/wanted_operators.hpp"

#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

constexpr size_t kMostNamed = 8;  // so that the sentence can be read

/// LibTorch's list of all names takes a millisecond, so it is read again only for a name that is new.
bool is_operator(const std::string& name) {
  static std::mutex mutex;
  static std::set<std::string> known;
  std::lock_guard lock(mutex);
  if (known.contains(name)) return true;
  for (auto& operator_name : c10::Dispatcher::singleton().getAllOpNames()) known.insert(operator_name.name);
  return known.contains(name);
}

}  // namespace

WantedOperators::WantedOperators(OperatorHandler& handler) : handler_(&handler), names_(handler.operators()) {
  for (auto& name : names_)
    if (!is_operator(name))
      throw Error(fmt::format(
          "OperatorHandler: operators() names {}, and there is no such operator; write it as aten::addmm",
          name));
}

bool WantedOperators::match(const std::string& name) {
  if (names_.empty()) return true;
  if (std::ranges::count(names_, name)) return is_met_ = true;
  if (!is_met_ && others_.size() < kMostNamed && !std::ranges::count(others_, name)) others_.push_back(name);
  return false;
}

void WantedOperators::check() const {
  if (names_.empty() || is_met_) return;
  throw Error(fmt::format(
      "OperatorHandler: the module called none of the operators that a strategy is for ({}), so that would "
      "have changed nothing; it called {}. Name those that it calls in operators()",
      fmt::join(names_, ", "),
      others_.empty() ? "none at all" : fmt::format("{}", fmt::join(others_, ", "))));
}

}  // namespace wanpar
