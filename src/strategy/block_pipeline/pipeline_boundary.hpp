#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <string>
#include <vector>

namespace wanpar {

/// What a stage gives to the next one for the first micro-batch, and so for each other one but for its number
/// of samples.
struct Boundary {
  at::ScalarType dtype{};
  bool requires_grad = false;
  std::vector<int64_t> shape;

  static Boundary of(const at::Tensor& x);
  bool operator==(const Boundary&) const = default;
};

/// Of each stage in order.
using Boundaries = std::vector<Boundary>;

/// Collective. What `root` says: its boundary, or why it has none, which is thrown as an Error on every rank.
Boundary announce(const Communicator& group, int root, const Boundary& mine, const std::string& failure);

}  // namespace wanpar
