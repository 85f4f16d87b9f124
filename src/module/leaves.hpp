#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wanpar {

/// An autograd node whose backward also reaches leaves that are not among its edges (a recomputation).
class ReachesLeaves {
 public:
  virtual ~ReachesLeaves() = default;
  virtual const std::vector<at::Tensor>& leaves() const = 0;
};

/// The leaves that require a gradient and that `results` depend on, other than through `arguments`.
std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& results,
                                  const std::vector<at::Tensor>& arguments);

/// Whether `results` depend, other than through `arguments`, on autograd nodes that are older than sequence
/// number `nodes`.
bool depends_on_earlier(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments,
                        uint64_t nodes);

/// Whether `results` depend on `x` other than through `arguments`.
bool depends_on(const std::vector<at::Tensor>& results, const at::Tensor& x,
                const std::vector<at::Tensor>& arguments);

/// The leaf x as a non-leaf that shares its memory: it may be written to in place.
at::Tensor as_given(const at::Tensor& x);

}  // namespace wanpar
