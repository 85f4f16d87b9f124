#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wanpar {

/// A node of a graph whose backward goes on to leaves that its edges do not show.
class ReachesLeaves {
 public:
  virtual ~ReachesLeaves() = default;
  virtual const std::vector<at::Tensor>& leaves() const = 0;
};

/// The leaf tensors that need a gradient and that `results` depend on, other than through `arguments`.
std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& results,
                                  const std::vector<at::Tensor>& arguments);

/// Whether `results` depend, other than through `arguments`, on what operators gave before this thread had
/// made so many nodes.
bool depends_on_earlier(const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& arguments,
                        uint64_t nodes);

/// Whether `results` depend on `x` other than through `arguments`.
bool depends_on(const std::vector<at::Tensor>& results, const at::Tensor& x,
                const std::vector<at::Tensor>& arguments);

/// x, which is a leaf, as something that an operator gave: it may be written to, and its memory is that of x.
at::Tensor as_given(const at::Tensor& x);

}  // namespace wanpar
