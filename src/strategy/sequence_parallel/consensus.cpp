#include "strategy/sequence_parallel/consensus.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <limits>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"

namespace wanpar {

void Consensus::go_on(const std::string& path) const {
  const int64_t mine = stable_hash(path) >> 1;  // has a negative
  auto all = greatest(at::tensor({mine, -mine, int64_t{-1}}, at::kLong));
  if (auto failed = all[2].item<int64_t>(); failed >= 0)
    throw Error(
        fmt::format("SequenceParallel: rank {} could not go on, and says why; so no rank does", failed));
  if (all[0].item<int64_t>() != -all[1].item<int64_t>())
    throw Error(
        fmt::format("SequenceParallel: the ranks took different paths through the module, this one to {}; a "
                    "module may not go by how many tokens are here",
                    path));
}

void Consensus::refuse() const {
  const auto none = std::numeric_limits<int64_t>::min();
  greatest(at::tensor({none, none, int64_t{outer_.rank()} * inner_.size() + inner_.rank()}, at::kLong));
}

at::Tensor Consensus::greatest(at::Tensor x) const {
  for (auto* group : {&inner_, &outer_})
    if (group->size() > 1) x = group->all_reduce(x.to(group->device()), ReduceOp::max).get();
  return x.cpu();
}

}  // namespace wanpar
