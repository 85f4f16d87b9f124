#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <functional>
#include <string>
#include <vector>

namespace wanpar {

/// A fingerprint of two numbers that differs for other values, and for another order: the sum of all values,
/// weighted by their index, and their 2-norm. Large values enter by their logarithm, so that the lowest
/// number of a mask does not hide all others.
struct Digest {
  at::Tensor numbers;    ///< on the tensor's device: no synchronisation until they are compared
  double tolerance = 0;  ///< relative

  static Digest of(const at::Tensor& x);
  /// Whether they are equal up to rounding: a repeated computation need not be bitwise equal.
  bool is_close_to(const Digest& other) const;
};

/// Collective. Throws AgreedError on every rank if the tensors differ by rank in name, dtype, shape or value,
/// naming the first that does: "who: the ranks have different `what`: …; `advice`". `rest` is further text
/// that must be equal. The groups are the axes of a grid, as for require_same. Moves 24 bytes, and 16 per
/// tensor, over each.
void require_same_values(const std::string& who, const std::string& what,
                         const std::vector<Communicator>& groups, const NamedTensors& tensors,
                         const std::string& advice, const std::string& rest = {});

/// Collective. Gathers the numbers [n] of each rank of a grid as [ranks, n], on the CPU.
at::Tensor numbers_of_all(const std::vector<Communicator>& groups, const at::Tensor& mine);

/// Collective. Broadcasts rank 0's values into every rank's tensors. Tensors that already hold them are not
/// written, so that graphs which saved them stay valid, and ranks may share them. `write` stores values in a
/// tensor.
using Write = std::function<void(size_t index, const at::Tensor& values)>;
void broadcast_values(const Communicator& group, const NamedTensors& tensors, int64_t bucket_bytes,
                      const Write& write = {});

}  // namespace wanpar
