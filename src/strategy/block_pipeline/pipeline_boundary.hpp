#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace wanpar {

/// The activation that a stage sends for the first micro-batch; for the others only the number of samples
/// differs.
struct Boundary {
  at::ScalarType dtype{};
  bool requires_grad = false;
  bool writes = false;  ///< whether the stage writes to its input in place
  std::vector<int64_t> shape;

  static Boundary of(const at::Tensor& x);
  /// As text, to send it to other ranks.
  std::string text() const;
  static Boundary from_text(const std::string& text);
};

/// The boundary after each stage, in order.
using Boundaries = std::vector<Boundary>;

}  // namespace wanpar
