#include "module/claim.hpp"

#include <fmt/format.h>

#include <mutex>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

std::mutex mutex;
std::unordered_set<const void*> claimed;

}  // namespace

Claim::Claim(const NamedTensors& parameters) {
  std::lock_guard lock(mutex);
  for (auto& [name, tensor] : parameters) {
    if (claimed.contains(tensor.unsafeGetTensorImpl()))
      throw Error(fmt::format(
          "parameter '{}' is sharded already, by another wrapper or another rank of this process: "
          "each rank needs a module of its own",
          name));
    mine_.insert(tensor.unsafeGetTensorImpl());
  }
  claimed.insert(mine_.begin(), mine_.end());
}

Claim::~Claim() {
  std::lock_guard lock(mutex);
  for (auto* tensor : mine_) claimed.erase(tensor);
}

}  // namespace wanpar
