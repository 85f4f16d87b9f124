#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// A segment of a forward: a function of x and side tensors.
using Part = std::function<at::Tensor(at::Tensor x, const std::vector<at::Tensor>& side)>;

/// part(x, side), checkpointed: only the inputs are saved, and backward recomputes the segment, within the
/// same strategies and with the same random numbers. Throws Error, now or in backward, if the recomputation
/// would differ.
at::Tensor recomputed(const Part& part, const at::Tensor& x, const std::vector<at::Tensor>& side);

/// Active during the first run of a checkpointed segment: backward will not pass through its operators.
class UnrecordedRun : public virtual Handler {};

}  // namespace wanpar
