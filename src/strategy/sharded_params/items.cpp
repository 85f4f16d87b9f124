#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <wanpar/core/error.hpp>

#include "module/deferred.hpp"
#include "strategy/sharded_params/flat_parameters.hpp"

namespace wanpar {
namespace {

/// The number of elements that a tensor spans in memory.
int64_t span(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  int64_t last = 0;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) last += (tensor.size(dim) - 1) * tensor.stride(dim);
  return last + 1;
}

struct Found {
  Leaf leaf;
  int unit;
};

/// Merges overlapping parameters of one storage into one item.
void divide(std::vector<Found> found, std::vector<Item>& items) {
  auto begin_of = [](const Found& f) { return f.leaf.tensor.storage_offset(); };
  std::stable_sort(found.begin(), found.end(), [&](auto& a, auto& b) { return begin_of(a) < begin_of(b); });
  const auto& storage = found[0].leaf.tensor.storage();
  const auto first = items.size();
  int64_t begin = 0;  // of the current item, in the storage
  for (auto& [leaf, unit] : found) {
    auto from = leaf.tensor.storage_offset(), to = from + span(leaf.tensor);
    if (items.size() == first || from >= begin + items.back().size) {
      begin = from;
      items.emplace_back().unit = unit;
    } else if (leaf.tensor.scalar_type() != items.back().leaves[0].tensor.scalar_type()) {
      throw UsageError(
          fmt::format("ShardedParams: '{}' and '{}' share memory but not a dtype; give one of them memory of "
                      "its own, by clone()",
                      leaf.names[0], items.back().leaves[0].names[0]));
    }
    leaf.offset = from - begin;
    auto& item = items.back();
    item.size = std::max(item.size, to - begin);
    item.leaves.push_back(std::move(leaf));
  }
  for (auto item = items.begin() + static_cast<std::ptrdiff_t>(first); item != items.end(); ++item) {
    auto& tensor = item->leaves[0].tensor;
    item->moves = items.size() - first > 1 || tensor.storage_offset() > 0;
    if (is_deferred(tensor)) continue;
    item->values = tensor.detach().as_strided({item->size}, {1}, tensor.storage_offset());
    item->moves |= static_cast<size_t>(item->values.nbytes()) != storage.nbytes();
  }
}

}  // namespace

std::vector<Item> items_of(const NamedTensors& parameters, const Units& units) {
  std::vector<std::vector<Found>> storages;
  std::map<c10::StorageImpl*, size_t> known;
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto& [name, tensor] = parameters[i];
    auto [at, is_new] = known.emplace(tensor.storage().unsafeGetStorageImpl(), storages.size());
    if (is_new) storages.emplace_back();
    auto& found = storages[at->second];
    auto same =
        std::find_if(found.begin(), found.end(), [&](auto& f) { return f.leaf.tensor.is_same(tensor); });
    if (same != found.end())
      same->leaf.names.push_back(name);
    else
      found.push_back({Leaf{tensor, {name}, 0}, units.of_parameter[i]});
  }
  std::vector<Item> items;
  for (auto& found : storages) divide(std::move(found), items);
  return items;
}

}  // namespace wanpar
