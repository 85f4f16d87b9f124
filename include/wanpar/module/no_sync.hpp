#pragma once
#include <functional>
#include <utility>

namespace wanpar {

/// RAII: while it lives, backward leaves gradients unreduced on each rank. For gradient accumulation: hold it
/// for all micro-batches but the last.
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
