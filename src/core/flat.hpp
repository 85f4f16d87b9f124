#pragma once
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <wanpar/extend/core/transport.hpp>

namespace wanpar {

/// A flat tensor as bytes, for a transport. (A tensor of one element may have any stride; as_strided fixes
/// it.)
inline at::Tensor bytes(const at::Tensor& flat) {
  if (flat.numel() == 0) return at::empty({0}, flat.options().dtype(at::kByte));
  return flat.as_strided({flat.numel()}, {1}).view(at::kByte);
}

/// The total bytes of the messages.
inline int64_t payload(const std::vector<Message>& messages) {
  int64_t bytes = 0;
  for (auto& message : messages) bytes += static_cast<int64_t>(message.tensor.nbytes());
  return bytes;
}

/// The device for tensors of this transport; the CPU if any will do.
inline at::Device home(const Transport& transport) {
  auto device = transport.device();
  return device.empty() ? at::Device(at::kCPU) : at::Device(device);
}

}  // namespace wanpar
