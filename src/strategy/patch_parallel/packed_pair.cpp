#include "strategy/patch_parallel/packed_pair.hpp"

#include <ATen/ATen.h>

namespace wanpar {
namespace {

constexpr double kGreatest = 448;  // of float8_e4m3fn

std::vector<int64_t> shape_of(std::vector<int64_t> shape, int64_t tokens) {
  shape[PackedPair::kTokens] = tokens;
  return shape;
}

int64_t heads(const std::vector<int64_t>& shape) { return shape[0] * shape[1]; }

/// [batch, heads, 1, 1], float32.
at::Tensor scales(const at::Tensor& x) {
  if (x.numel() == 0) return at::ones({x.size(0), x.size(1), 1, 1}, x.options().dtype(at::kFloat));
  const auto greatest = x.abs().amax({2, 3}, true).to(at::kFloat);
  return at::where(greatest > 0, greatest / kGreatest, at::ones_like(greatest));
}

at::Tensor bytes(const at::Tensor& x) { return x.contiguous().view({-1}).view(at::kByte); }

}  // namespace

PackedPair::PackedPair(const at::Tensor& key, const at::Tensor& value, std::optional<at::ScalarType> dtype)
    : like_(key.options()),
      dtype_(dtype.value_or(key.scalar_type())),
      key_(key.sizes().vec()),
      value_(value.sizes().vec()) {}

int64_t PackedPair::numel(int64_t tokens) const {
  int64_t n = 0;
  for (auto* shape : {&key_, &value_}) {
    n += c10::multiply_integers(shape_of(*shape, tokens));
    if (is_scaled()) n += heads(*shape) * static_cast<int64_t>(sizeof(float));
  }
  return n;
}

at::Tensor PackedPair::packed(const std::vector<at::Tensor>& pair) const {
  if (!is_scaled()) return at::cat({pair[0].to(dtype_).reshape({-1}), pair[1].to(dtype_).reshape({-1})});
  std::vector<at::Tensor> pieces;
  for (auto& x : pair) {
    const auto scale = scales(x);
    pieces.push_back(bytes(scale));
    pieces.push_back(bytes((x.to(at::kFloat) / scale).clamp(-kGreatest, kGreatest).to(dtype_)));
  }
  return at::cat(pieces);
}

std::vector<at::Tensor> PackedPair::unpacked(const at::Tensor& flat, int64_t tokens) const {
  int64_t at = 0;
  auto next = [&](int64_t n) {
    at += n;
    return flat.narrow(0, at - n, n);
  };
  std::vector<at::Tensor> pair;
  for (auto* each : {&key_, &value_}) {
    const auto shape = shape_of(*each, tokens);
    const auto n = c10::multiply_integers(shape);
    if (is_scaled()) {
      const auto scale = next(heads(shape) * static_cast<int64_t>(sizeof(float)))
                             .clone()
                             .view(at::kFloat)
                             .view({shape[0], shape[1], 1, 1});
      const auto numbers = next(n).view(dtype_).view(shape).to(at::kFloat);
      pair.push_back((numbers * scale).to(like_.dtype()));
    } else {
      pair.push_back(next(n).view(shape).to(like_.dtype()));
    }
  }
  return pair;
}

}  // namespace wanpar
