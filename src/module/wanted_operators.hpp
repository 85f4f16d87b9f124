#pragma once
#include <string>
#include <vector>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// The operators that a handler is for, and whether its scope has met one of them.
class WantedOperators {
 public:
  /// Throws Error where LibTorch has no operator of a name.
  explicit WantedOperators(OperatorHandler& handler);

  OperatorHandler& handler() const { return *handler_; }
  /// Whether the handler is to meet this one; remembers it.
  bool match(const std::string& name);
  /// Throws Error where the handler is for some operators alone, and none of them was called.
  void check() const;

 private:
  OperatorHandler* handler_;
  std::vector<std::string> names_;   // of all where empty
  std::vector<std::string> others_;  // the first of those that were called instead
  bool is_met_ = false;
};

/// What `check` says of each handler of this thread beyond the first `outer` ones: those of a forward that
/// ends.
void check_wanted_operators(size_t outer);

}  // namespace wanpar
