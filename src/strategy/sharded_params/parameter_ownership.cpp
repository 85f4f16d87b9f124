#include "strategy/sharded_params/parameter_ownership.hpp"

#include <fmt/format.h>

#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "module/storage_memory.hpp"

namespace wanpar {

ParameterOwnership::ParameterOwnership(const NamedTensors& parameters) {
  std::unordered_set<c10::StorageImpl*> seen;  // tied parameters are listed more than once
  for (auto& [name, tensor] : parameters) {
    if (!tensor.defined() || !tensor.has_storage()) continue;
    bool is_new = seen.insert(tensor.storage().unsafeGetStorageImpl()).second;
    if (is_new && !claim_memory(tensor)) {
      release();
      throw UsageError(fmt::format(
          "parameter '{}' is sharded already, by another wrapper or another rank of this process: each "
          "rank needs a module of its own",
          name));
    }
    mine_.push_back(tensor);
  }
}

ParameterOwnership::~ParameterOwnership() { release(); }

void ParameterOwnership::release() {
  for (auto& tensor : mine_) release_memory(tensor);
}

}  // namespace wanpar
