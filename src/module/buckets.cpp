#include "module/buckets.hpp"

#include <algorithm>

namespace wanpar {

std::vector<Bucket> cut_into_buckets(const NamedTensors& tensors, std::span<const size_t> order,
                                     int64_t bytes) {
  struct Open {
    at::ScalarType dtype;
    at::Device device;
    int64_t bytes;
    Bucket bucket;
  };
  std::vector<Open> open;
  std::vector<Bucket> buckets;
  for (auto index : order) {
    auto& tensor = tensors[index].tensor;
    auto fits = [&](const Open& o) { return o.dtype == tensor.scalar_type() && o.device == tensor.device(); };
    auto place = std::find_if(open.begin(), open.end(), fits);
    auto size = static_cast<int64_t>(tensor.nbytes());
    if (place != open.end() && place->bytes + size > bytes) {
      buckets.push_back(std::move(place->bucket));
      open.erase(place);
      place = open.end();
    }
    if (place == open.end()) place = open.insert(place, {tensor.scalar_type(), tensor.device(), 0, {}});
    place->bytes += size;
    place->bucket.push_back(index);
  }
  for (auto& rest : open) buckets.push_back(std::move(rest.bucket));

  std::vector<size_t> turn(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) turn[order[i]] = i;
  std::sort(buckets.begin(), buckets.end(),
            [&](const Bucket& a, const Bucket& b) { return turn[a.back()] < turn[b.back()]; });
  return buckets;
}

}  // namespace wanpar
