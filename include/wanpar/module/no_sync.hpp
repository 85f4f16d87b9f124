#pragma once
#include <functional>
#include <utility>

namespace wanpar {

/// While it lives, backwards of a wrapped module leave gradients as they are on each rank: for all but the
/// last of several batches whose gradients add up.
class [[nodiscard]] NoSync {
 public:
  explicit NoSync(std::function<void()> end) : end_(std::move(end)) {}
  ~NoSync() { end_(); }
  NoSync(const NoSync&) = delete;
  NoSync& operator=(const NoSync&) = delete;

 private:
  std::function<void()> end_;
};

}  // namespace wanpar
