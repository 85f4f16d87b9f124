#include "strategy/sharded_params/sharded_unit.hpp"

#include <optional>

namespace wanpar {

std::function<Source::Buffers()> ShardedUnit::fetch() {
  gradients->before_gather(index_);
  auto coming = std::make_shared<std::vector<std::optional<Pending<at::Tensor>>>>();
  for (auto& flat : flats)
    coming->push_back(flat.is_unsharded() ? std::nullopt : std::optional(flat.gather()));
  return [coming] {
    Buffers buffers;
    for (auto& one : *coming) buffers.push_back(one ? one->get() : at::Tensor());
    return buffers;
  };
}

int64_t ShardedUnit::version() const {
  int64_t sum = 0;
  for (auto& flat : flats) sum += flat.version();
  return sum;
}

void ShardedUnit::write_back(const Buffers& buffers) {
  for (size_t i = 0; i < flats.size(); ++i)
    if (!flats[i].is_unsharded()) flats[i].write_back(buffers[i]);
}

}  // namespace wanpar
