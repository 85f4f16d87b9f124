#include "module/claim.hpp"

#include <fmt/format.h>

#include <mutex>
#include <unordered_set>
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
  }
  for (auto& [name, tensor] : parameters) {
    mine_.push_back(tensor);
    claimed.insert(tensor.unsafeGetTensorImpl());
  }
}

Claim::~Claim() {
  std::lock_guard lock(mutex);
  for (auto& tensor : mine_) claimed.erase(tensor.unsafeGetTensorImpl());
}

}  // namespace wanpar
