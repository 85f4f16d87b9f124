#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>
#include <wanpar/extend/module/interceptor.hpp>

namespace wanpar {

/// A part of a forward: one tensor of it, and what is given beside.
using Part = std::function<at::Tensor(at::Tensor x, const std::vector<at::Tensor>& side)>;

/// part(x, side) of which backward keeps the inputs only: it runs the part once more, within the strategies
/// and with the random numbers of the first time, and goes back through that. Throws Error, now or in
/// backward, where the second time would not be like the first.
at::Tensor recomputed(const Part& part, const at::Tensor& x, const std::vector<at::Tensor>& side);

/// On the stack of handlers while a part runs for the first time: backward will not go through these
/// operators.
class UnrecordedRun : public virtual Handler {};

}  // namespace wanpar
