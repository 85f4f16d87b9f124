// says: this type of argument or result cannot be searched for tensors
#include <wanpar/strategy/data_parallel.hpp>
at::Tensor* net(at::Tensor x);
void use() { (net | wanpar::data_parallel({}))(at::Tensor()); }
