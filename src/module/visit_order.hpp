#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace wanpar {

/// The order in which a pass uses units: learnt in one pass, expected in the next.
class VisitOrder {
 public:
  /// Starts a new pass. `guess` is the expected order if none has been learnt yet.
  void begin_pass(std::vector<int> guess = {}) {
    if (!seen_.empty()) expected_ = std::exchange(seen_, {});
    if (expected_.empty()) expected_ = std::move(guess);
    next_ = 0;
  }

  void visit(int unit) {
    seen_.push_back(unit);
    auto found = std::find(expected_.begin() + static_cast<std::ptrdiff_t>(next_), expected_.end(), unit);
    if (found != expected_.end()) next_ = static_cast<size_t>(found - expected_.begin()) + 1;
  }

  std::span<const int> seen() const { return seen_; }
  std::span<const int> upcoming() const { return std::span(expected_).subspan(next_); }

 private:
  std::vector<int> seen_, expected_;
  size_t next_ = 0;
};

}  // namespace wanpar
