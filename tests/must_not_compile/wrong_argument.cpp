// says: no match for call
#include <wanpar/strategy/data_parallel.hpp>
at::Tensor net(at::Tensor x);
void use() { (net | wanpar::data_parallel({}))("a picture", 3); }
