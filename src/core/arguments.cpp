#include "core/arguments.hpp"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

bool movable(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
    case at::kFloat:
    case at::kHalf:
    case at::kBFloat16:
    case at::kLong:
    case at::kInt:
    case at::kShort:
    case at::kChar:
    case at::kByte:
    case at::kUInt16:
    case at::kUInt32:
    case at::kUInt64:
    case at::kBool:
    case at::kComplexHalf:
    case at::kComplexFloat:
    case at::kComplexDouble:
    case at::kFloat8_e4m3fn:
    case at::kFloat8_e4m3fnuz:
    case at::kFloat8_e5m2:
    case at::kFloat8_e5m2fnuz:
    case at::kFloat8_e8m0fnu:
      return true;
    default:
      return false;
  }
}

/// Whether LibTorch and the transports' libraries can reduce this dtype.
bool has_arithmetic(at::ScalarType dtype) {
  switch (dtype) {
    case at::kUInt16:
    case at::kUInt32:
    case at::kUInt64:
    case at::kComplexHalf:
      return false;
    default:
      return !at::isFloat8Type(dtype);
  }
}

}  // namespace

void check_tensor(const at::Tensor& x, const Transport* transport, const Call& call) {
  if (!x.defined()) throw UsageError(where(call) + ": the tensor is undefined");
  if (x.layout() != at::kStrided)
    throw UsageError(where(call) +
                     ": only dense tensors can be moved, this one is sparse; call to_dense() first");
  if (!movable(x.scalar_type()))
    throw UsageError(fmt::format("{}: {} cannot be moved; a quantized tensor's int_repr() can", where(call),
                                 c10::toString(x.scalar_type())));
  if (at::GradMode::is_enabled() && x.requires_grad())
    throw UsageError(
        where(call) +
        ": the tensor requires a gradient, which a plain transfer does not carry; detach() it, or "
        "run under NoGradGuard");
  if (transport && !transport->device().empty() &&
      c10::DeviceTypeName(x.device().type(), true) != transport->device())
    throw UsageError(fmt::format("{}: this group moves {} tensors, this one is on {}", where(call),
                                 transport->device(), x.device().str()));
}

void check_reducible(const Call& call) {
  bool is_complex = at::isComplexType(call.dtype);
  if (!has_arithmetic(call.dtype))
    throw UsageError(fmt::format("{}: {} moves as bytes and cannot be reduced; convert it first", where(call),
                                 c10::toString(call.dtype)));
  if (is_complex && call.reduce != ReduceOp::sum && call.reduce != ReduceOp::mean)
    throw UsageError(
        fmt::format("{}: of complex numbers there are a sum and a mean; reduce torch::view_as_real() "
                    "for others",
                    where(call)));
  bool fraction = call.reduce == ReduceOp::mean && !at::isFloatingType(call.dtype) && !is_complex;
  if (fraction)
    throw UsageError(
        where(call) +
        ": the mean of whole numbers is not a whole number; use sum, or convert to a float type");
}

int64_t check_dim(int64_t dim, const at::Tensor& x, const Call& call) {
  if (dim < -x.dim() || dim >= x.dim())
    throw UsageError(
        fmt::format("{}: dimension {} of a tensor with {} dimensions", where(call), dim, x.dim()));
  return dim < 0 ? dim + x.dim() : dim;
}

std::vector<int64_t> check_sizes(std::span<const int64_t> sizes, const Call& call) {
  if (static_cast<int>(sizes.size()) != call.size)
    throw UsageError(fmt::format("{}: {} sizes for {} ranks", where(call), sizes.size(), call.size));
  for (auto size : sizes)
    if (size < 0) throw UsageError(fmt::format("{}: sizes {} hold a negative one", where(call), sizes));
  return {sizes.begin(), sizes.end()};
}

std::vector<int64_t> split_extents(const at::Tensor& x, int64_t dim, std::span<const int64_t> sizes,
                                   const Call& call) {
  auto extent = x.size(dim);
  if (sizes.empty()) {
    if (extent % call.size)
      throw UsageError(
          fmt::format("{}: dimension {} has {} elements, which {} ranks cannot share evenly; give the sizes",
                      where(call), dim, extent, call.size));
    return std::vector<int64_t>(call.size, extent / call.size);
  }
  auto checked = check_sizes(sizes, call);
  if (total(checked) != extent)
    throw UsageError(fmt::format("{}: sizes {} add up to {}, but dimension {} has {} elements", where(call),
                                 checked, total(checked), dim, extent));
  return checked;
}

std::vector<int64_t> concat_extents(const at::Tensor& x, int64_t dim, std::span<const int64_t> sizes,
                                    const Call& call) {
  if (sizes.empty()) return std::vector<int64_t>(call.size, x.size(dim));
  auto checked = check_sizes(sizes, call);
  if (checked[call.rank] != x.size(dim))
    throw UsageError(fmt::format("{}: sizes {} say {} for this rank, but its dimension {} has {} elements",
                                 where(call), checked, checked[call.rank], dim, x.size(dim)));
  return checked;
}

int64_t total(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

}  // namespace wanpar
