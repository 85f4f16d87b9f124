#include "values.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace wanpar::conformance {

const std::vector<at::ScalarType> kReducible{at::kDouble, at::kFloat, at::kHalf,         at::kBFloat16,
                                             at::kLong,   at::kInt,   at::kShort,        at::kChar,
                                             at::kByte,   at::kBool,  at::kComplexFloat, at::kComplexDouble};
// Of these LibTorch knows little more than how many bytes an element has.
const std::vector<at::ScalarType> kBytesAlone{at::kUInt16,      at::kUInt32,          at::kUInt64,
                                              at::kComplexHalf, at::kFloat8_e4m3fn,   at::kFloat8_e4m3fnuz,
                                              at::kFloat8_e5m2, at::kFloat8_e5m2fnuz, at::kFloat8_e8m0fnu};
const std::vector<at::ScalarType> kMovable = [] {
  auto all = kReducible;
  all.push_back(at::kFloat8_e4m3fn);
  return all;
}();

at::Tensor values(int rank, std::vector<int64_t> shape, at::ScalarType dtype) {
  auto n = c10::multiply_integers(shape);
  if (std::ranges::count(kBytesAlone, dtype)) {
    shape.push_back(static_cast<int64_t>(c10::elementSize(dtype)));
    auto bytes = at::arange(n * shape.back()).add(rank * 3).remainder(7).to(at::kByte);
    return bytes.view(shape).view(dtype).squeeze(-1);
  }
  return at::arange(n)
      .add(rank * 3)
      .remainder(dtype == at::kBool ? 2 : 7)
      .view(shape)
      .to(at::kFloat)
      .to(dtype);
}

std::vector<int64_t> uneven(int ranks) {
  std::vector<int64_t> sizes;
  for (int r = 0; r < ranks; ++r) sizes.push_back(r == 1 ? 0 : r + 2);
  return sizes;
}

}  // namespace wanpar::conformance
