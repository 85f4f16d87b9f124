#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace wanpar {

class SplitTensor;

/// The boxed kernel of every operator on split tensors, registered under their dispatch key.
void on_split_tensors(const c10::OperatorHandle& op, torch::jit::Stack* stack);

/// RAII: excludes autograd and autocast.
class BelowAutograd {
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                            c10::autocast_dispatch_keyset};
};

/// Collective. The content of a copy that stands for a view, renewed if its base has been written to.
const at::Tensor& renewed(SplitTensor& view);

}  // namespace wanpar
