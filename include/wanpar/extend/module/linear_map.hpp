#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace wanpar {

using TensorMap = std::function<std::vector<at::Tensor>(std::vector<at::Tensor>)>;

/// forward(x), a linear map with `adjoint` as its backward, which maps gradients of the results to gradients
/// of x. If no gradient is required, it is just forward(x).
///
/// Both run without autograd and without interception, so they may communicate; backward may be called
/// anywhere. As the communication is collective, gradients must be required on all ranks or on none.
std::vector<at::Tensor> linear_map(std::vector<at::Tensor> x, const TensorMap& forward, TensorMap adjoint);

/// The same for one tensor.
at::Tensor linear_map(at::Tensor x, const std::function<at::Tensor(at::Tensor)>& forward,
                      const std::function<at::Tensor(at::Tensor)>& adjoint);

/// Call in a custom backward that is not differentiable itself. Throws Error for create_graph, since second
/// derivatives would miss the terms through this node.
void refuse_create_graph();

/// Whether autograd would record an operator on these tensors.
bool wants_gradient(const std::vector<at::Tensor>& tensors);

}  // namespace wanpar
