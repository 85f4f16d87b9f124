#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace wanpar {

using TensorMap = std::function<std::vector<at::Tensor>(std::vector<at::Tensor>)>;

/// forward(x), a linear map that autograd knows by its adjoint: gradients of the results go in, those of x
/// come out. Where nobody asks for gradients it is forward(x) and nothing else.
///
/// Both run without autograd and out of every handler's sight, so they may exchange over a group: backward
/// may be called anywhere. An exchange needs every rank to make it, so where gradients are asked for on one
/// rank, they must be on all.
std::vector<at::Tensor> linear_map(std::vector<at::Tensor> x, const TensorMap& forward, TensorMap adjoint);

/// The same for one tensor.
at::Tensor linear_map(at::Tensor x, const std::function<at::Tensor(at::Tensor)>& forward,
                      const std::function<at::Tensor(at::Tensor)>& adjoint);

/// To be called in a backward of our own, which autograd cannot look into. Throws Error in one with
/// create_graph: what it gave would lack the terms that pass through here.
void refuse_create_graph();

/// Whether autograd would record an operator on these.
bool wants_gradient(const std::vector<at::Tensor>& tensors);

}  // namespace wanpar
