#pragma once
#include <c10/util/intrusive_ptr.h>
#include <wanpar/module/attention.hpp>
#include <wanpar/module/interceptor.hpp>

#include <functional>
#include <optional>
#include <unordered_map>

namespace wanpar {

/// An attention that a module writes out as matmul, softmax, matmul, on its way: the scores of this rank's
/// queries with all keys are never made. What the module has in their place is a tensor without memory of its
/// own, of the shape that the module expects.
struct Scores {
  Attention call;  ///< its value is yet to come; the mask has what was added, its scale what was multiplied
  bool is_softmax = false;
};

/// What stands in the place of a tensor that nobody has computed.
struct Promise {
  std::optional<Scores> scores;
  std::function<at::Tensor()> whole;  ///< collective: computes it, for all ranks' tokens, on every rank
};

/// The promises of a pass, by the tensors that stand for them.
class Promises {
 public:
  /// A tensor of this shape that stands for the promise.
  at::Tensor stand_in(at::IntArrayRef sizes, const at::TensorOptions& options, Promise promise);
  void renew(const at::Tensor& stand_in, Promise promise);
  const Promise* of(const at::Tensor& tensor) const;
  bool touch(std::span<const at::Tensor> tensors) const;

 private:
  struct Entry {
    c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl> tensor;
    Promise promise;
  };
  std::unordered_map<at::TensorImpl*, Entry> entries_;
};

/// The scores behind an operator on them that an attention can take in: a factor, a mask, the softmax. None
/// for any other. `others` are the operator's inputs, whole.
std::optional<Scores> extended(const Scores& scores, const Operator& op, size_t position,
                               const Tensors& others);

}  // namespace wanpar
