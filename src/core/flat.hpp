#pragma once
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <wanpar/extend/core/transport.hpp>

namespace wanpar {

/// A flat tensor as what transports move. The only element of one may be any stride from the next.
inline at::Tensor bytes(const at::Tensor& flat) {
  if (flat.numel() == 0) return at::empty({0}, flat.options().dtype(at::kByte));
  return flat.as_strided({flat.numel()}, {1}).view(at::kByte);
}

/// Bytes that messages take along.
inline int64_t payload(const std::vector<Message>& messages) {
  int64_t bytes = 0;
  for (auto& message : messages) bytes += static_cast<int64_t>(message.tensor.nbytes());
  return bytes;
}

/// Where tensors for this transport are made: on its device, on the CPU where any will do.
inline at::Device home(const Transport& transport) {
  auto device = transport.device();
  return device.empty() ? at::Device(at::kCPU) : at::Device(device);
}

}  // namespace wanpar
