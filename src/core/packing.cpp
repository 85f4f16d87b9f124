#include "core/packing.hpp"

#include <ATen/ATen.h>

namespace wanpar {

std::vector<int64_t> times(std::span<const int64_t> counts, int64_t factor) {
  std::vector<int64_t> result(counts.begin(), counts.end());
  for (auto& count : result) count *= factor;
  return result;
}

std::vector<int64_t> with_extent(at::IntArrayRef shape, int64_t dim, int64_t extent) {
  auto result = shape.vec();
  result[dim] = extent;
  return result;
}

int64_t volume(at::IntArrayRef shape) { return c10::multiply_integers(shape); }

at::Tensor private_flat(at::Tensor x) {
  x = x.resolve_conj().resolve_neg();  // lazy flags: materialise them
  bool given_away = x.use_count() == 1 && x.storage().use_count() == 1 && x.is_contiguous();
  if (!given_away) x = x.clone(at::MemoryFormat::Contiguous);
  return x.view({-1});
}

at::Tensor as_reducible(const at::Tensor& flat) {
  if (flat.is_complex()) return at::view_as_real(flat).view({-1});
  if (flat.scalar_type() == at::kBool) return flat.to(at::kByte);
  return flat.scalar_type() == at::kShort ? flat.to(at::kInt) : flat;
}

at::Tensor from_reducible(const at::Tensor& flat, at::ScalarType dtype) {
  if (at::isComplexType(dtype)) return at::view_as_complex(flat.view({-1, 2}));
  return flat.to(dtype);
}

at::Tensor join(const at::Tensor& flat, const std::vector<std::vector<int64_t>>& shapes, int64_t dim) {
  std::vector<at::Tensor> pieces;
  int64_t at = 0;
  for (auto& shape : shapes) {
    pieces.push_back(flat.narrow(0, at, volume(shape)).view(shape));
    at += volume(shape);
  }
  return at::cat(pieces, dim);
}

at::Tensor pack(at::Tensor x, int64_t dim, std::span<const int64_t> sizes) {
  bool in_order = volume(x.sizes().slice(0, dim)) == 1;
  if (in_order) return private_flat(std::move(x));
  x = x.resolve_conj().resolve_neg();
  auto flat = at::empty({x.numel()}, x.options());
  int64_t from = 0, at = 0;
  for (auto size : sizes) {
    auto piece = x.narrow(dim, from, size);
    flat.narrow(0, at, piece.numel()).view(piece.sizes()).copy_(piece);
    from += size, at += piece.numel();
  }
  return flat;
}

}  // namespace wanpar
