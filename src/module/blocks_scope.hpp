#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <wanpar/extend/module/forward_scope.hpp>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// A forward with an active BlocksHandler.
class BlocksScope : public ForwardScope {
 public:
  /// `end` is called with the results after a successful forward; it throws Error if the module has run no
  /// blocks. Throws Error inside another handler of the same type; `strategy` starts the message.
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
