#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace wanpar {

/// What a stage gives to the next one for the first micro-batch, and so for each other one but for its number
/// of samples.
struct Boundary {
  at::ScalarType dtype{};
  bool requires_grad = false;
  bool writes = false;  ///< whether it has written to what it was given
  std::vector<int64_t> shape;

  static Boundary of(const at::Tensor& x);
  /// As it is told to other ranks.
  std::string text() const;
  static Boundary from_text(const std::string& text);
};

/// Of each stage in order.
using Boundaries = std::vector<Boundary>;

}  // namespace wanpar
