#include "module/claim.hpp"

#include <fmt/format.h>

#include <mutex>
#include <unordered_map>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

using Groups = std::vector<Communicator>;

std::mutex mutex;
std::unordered_map<const void*, std::shared_ptr<const Groups>> claims;

}  // namespace

Claim::Claim(const NamedTensors& parameters, Groups averaged_over) {
  std::lock_guard lock(mutex);
  for (auto& [name, tensor] : parameters)
    if (claims.contains(tensor.unsafeGetTensorImpl()))
      throw Error(
          fmt::format("parameter '{}' is sharded already, by another wrapper or another rank of this "
                      "process: each rank needs a module of its own",
                      name));
  auto groups = std::make_shared<const Groups>(std::move(averaged_over));
  for (auto& item : parameters)  // tied ones stand here more than once
    if (claims.emplace(item.tensor.unsafeGetTensorImpl(), groups).second) mine_.push_back(item.tensor);
}

Claim::~Claim() {
  std::lock_guard lock(mutex);
  for (auto& tensor : mine_) claims.erase(tensor.unsafeGetTensorImpl());
}

std::optional<Groups> claimed(const at::Tensor& parameter) {
  std::lock_guard lock(mutex);
  auto found = claims.find(parameter.unsafeGetTensorImpl());
  if (found == claims.end()) return {};
  return *found->second;
}

}  // namespace wanpar
