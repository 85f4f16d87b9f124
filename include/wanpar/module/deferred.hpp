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

/// Constructs a module without allocating its large tensors (cf. the meta device): `auto model =
/// wanpar::deferred([&] { return Transformer(config); })`. ShardedParams then allocates each rank's shard,
/// and load() fills it.
///
/// Tensors of 64 KiB and more that are created uninitialised or random stay without memory, and in-place
/// initialisation of them has no effect. All others (norms, biases, computed tables) are created as usual. At
/// most one large tensor is allocated at a time, while it is being created.
template <class Make>
auto deferred(Make&& make) {
  detail::Deferral deferral;
  return std::forward<Make>(make)();
}

}  // namespace wanpar
