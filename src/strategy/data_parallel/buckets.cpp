#include "strategy/data_parallel/buckets.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>

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

void broadcast_values(const Communicator& group, const NamedTensors& tensors, int64_t bucket_bytes) {
  at::NoGradGuard no_grad;
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (auto& bucket : cut_into_buckets(tensors, order, bucket_bytes)) {
    std::vector<at::Tensor> pieces;
    for (auto index : bucket) pieces.push_back(tensors[index].tensor.detach().reshape({-1}));
    auto own = at::cat(pieces);
    auto bytes = own.view(at::kByte);  // any dtype, complex ones too
    auto values = group.broadcast(bytes).get();
    if (group.rank() == 0 || bytes.equal(values)) continue;
    values = values.view(own.scalar_type());
    int64_t at = 0;
    for (auto index : bucket) {
      auto tensor = tensors[index].tensor;
      tensor.copy_(values.narrow(0, at, tensor.numel()).view(tensor.sizes()));
      at += tensor.numel();
    }
  }
}

}  // namespace wanpar
