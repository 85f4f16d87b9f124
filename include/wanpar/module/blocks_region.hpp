#pragma once
#include <wanpar/module/interceptor.hpp>

#include <functional>
#include <memory>
#include <optional>

namespace wanpar::detail {

/// A forward through a module, to whose run_blocks a handler listens.
class BlocksRegion {
 public:
  /// `end` is called behind a forward that came to its end: it throws Error when the module has run no
  /// blocks.
  BlocksRegion(std::shared_ptr<Handler> handler, std::function<void()> end);

  /// What `forward` gives, or the error as the strategy threw it.
  template <class Forward>
  auto run(const Forward& forward) {
    try {
      auto result = forward();
      leave();
      return result;
    } catch (...) {
      Scope::rethrow();
    }
  }

 private:
  void leave();

  std::shared_ptr<Handler> handler_;
  std::function<void()> end_;
  std::optional<Scope> scope_;
};

}  // namespace wanpar::detail
