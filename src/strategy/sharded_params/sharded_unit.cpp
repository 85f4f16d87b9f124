#include "strategy/sharded_params/sharded_unit.hpp"

namespace wanpar {

std::function<Source::Buffers()> ShardedUnit::fetch() {
  if (auto told = gradients.lock()) told->before_gather(index_);
  auto coming = std::make_shared<std::vector<Pending<at::Tensor>>>();
  for (auto& flat : flats) coming->push_back(flat.gather());
  return [coming] {
    Buffers buffers;
    for (auto& one : *coming) buffers.push_back(one.get());
    return buffers;
  };
}

int64_t ShardedUnit::version() const {
  int64_t sum = 0;
  for (auto& flat : flats)
    if (!flat.is_whole()) sum += flat.shard()._version();
  return sum;
}

}  // namespace wanpar
