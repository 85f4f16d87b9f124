#pragma once
#include <wanpar/module/parameters.hpp>

#include <tuple>
#include <utility>

namespace wanpar {

/// What a strategy shows of the module that it wraps.
template <class Module>
class Wrapper {
 public:
  explicit Wrapper(Module module) : module_(std::move(module)) {}

  /// The wrapped module.
  Module& inner() { return module_; }
  /// Those of the wrapped module, by its own names.
  NamedTensors named_parameters() { return wanpar::named_parameters(module_); }
  NamedTensors named_buffers() { return wanpar::named_buffers(module_); }

 protected:
  Module module_;
};

namespace detail {

/// `model | closure` is a Strategy of that model, made with these options.
template <template <class> class Strategy, class... Options>
class Closure {
 public:
  explicit Closure(Options... options) : options_(std::move(options)...) {}

  template <class Module>
  friend auto operator|(Module module, Closure closure) {
    auto wrapped = [&](Options&... options) {
      return Strategy<Module>(std::move(module), std::move(options)...);
    };
    return std::apply(wrapped, closure.options_);
  }

 private:
  std::tuple<Options...> options_;
};

}  // namespace detail
}  // namespace wanpar
