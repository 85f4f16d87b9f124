#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <wanpar/extend/module/forward_scope.hpp>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// A forward through a module, to whose run_blocks a handler listens.
class BlocksScope : public ForwardScope {
 public:
  /// `end` is called behind a forward that came to its end, with its results: it throws Error when the module
  /// has run no blocks. Throws Error inside of another handler of its type; `strategy` begins the sentence.
  using End = std::function<void(const NamedTensors& results)>;
  BlocksScope(const std::string& strategy, std::shared_ptr<Handler> handler, End end);

  void leave(NamedTensors& results) override {
    scope_.reset();
    end_(results);
  }

 private:
  std::shared_ptr<Handler> handler_;
  End end_;
  std::optional<Scope> scope_;
};

}  // namespace wanpar
