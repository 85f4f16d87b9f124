#pragma once
#include <memory>
#include <utility>

namespace wanpar {

namespace detail {

class Deferral {
 public:
  Deferral();
  ~Deferral();
  Deferral(const Deferral&) = delete;
  Deferral& operator=(const Deferral&) = delete;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace detail

/// Constructs a module of which no large tensor has memory yet: `auto model = wanpar::deferred([&] { return
/// Transformer(config); })`. ShardedParams gives each rank its part, and load() the values.
///
/// Tensors of 64 KiB and more that are made without values or with random ones stay without memory, and what
/// initialises them in place has no effect. Anything else (norms, biases, tables that are computed) is made
/// as ever. At most one large tensor at a time is there for the moment of its making.
template <class Make>
auto deferred(Make&& make) {
  detail::Deferral deferral;
  return std::forward<Make>(make)();
}

}  // namespace wanpar
