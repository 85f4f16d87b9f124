#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <functional>
#include <string>
#include <vector>

namespace wanpar {

/// Two numbers by which tensors of other values, or of the same ones in another order, are told apart: the
/// sum of all values, each with a weight that goes by its place, and the root of their squares' sum. Large
/// ones count by their logarithm, so that the lowest number, as in a mask, does not hide all else.
struct Digest {
  at::Tensor numbers;    ///< on the tensor's device, where nobody waits for them until they are compared
  double tolerance = 0;  ///< relative

  static Digest of(const at::Tensor& x);
  /// Whether they are alike but for rounding: what is computed twice need not be the same to the bit.
  bool is_close_to(const Digest& other) const;
};

/// Collective. Throws AgreedError on every rank where the tensors differ by rank in name, dtype, shape or
/// value, and names the first that does: "who: the ranks have different `what`: …; `advice`". `rest` is what
/// else must be the same text. The groups are those of a grid, as for require_same. Moves 24 bytes, and 16
/// for each tensor, over each of them.
void require_same_values(const std::string& who, const std::string& what,
                         const std::vector<Communicator>& groups, const NamedTensors& tensors,
                         const std::string& advice, const std::string& rest = {});

/// Collective. The same number of numbers [n] of each rank of a grid, [ranks, n], on the CPU.
at::Tensor numbers_of_all(const std::vector<Communicator>& groups, const at::Tensor& mine);

/// Collective. Writes rank 0's values into every rank's tensors. What holds them already is not touched, so
/// that a graph which saved it stays valid and ranks may share it. `write` puts the values into a tensor.
using Write = std::function<void(size_t index, const at::Tensor& values)>;
void broadcast_values(const Communicator& group, const NamedTensors& tensors, int64_t bucket_bytes,
                      const Write& write = {});

}  // namespace wanpar
