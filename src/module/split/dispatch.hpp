#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace wanpar {

class SplitTensor;

/// Every operator on split tensors, registered under the key that they carry.
void on_split_tensors(const c10::OperatorHandle& op, torch::jit::Stack* stack);

/// While it lives, operators compute, and nothing else.
class BelowAutograd {
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autograd_dispatch_keyset_with_ADInplaceOrView |
                                            c10::autocast_dispatch_keyset};
};

/// The content of a copy of a view, made anew where its base has been written to. Collective.
const at::Tensor& renewed(SplitTensor& view);

}  // namespace wanpar
