// says: of a plain module object, pass std::make_shared<Net>() instead
#include <wanpar/strategy/data_parallel.hpp>
struct Net {
  at::Tensor forward(at::Tensor x) { return x; }
};
auto wrapped = Net() | wanpar::data_parallel({});
