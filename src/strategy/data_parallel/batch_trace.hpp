#pragma once
#include <wanpar/extend/module/interceptor.hpp>

#include <optional>
#include <string>
#include <unordered_map>

#include "module/crossing.hpp"
#include "module/follow/follow.hpp"
#include "module/follow/operator_facts.hpp"
#include "module/follow/rules.hpp"

namespace wanpar {

/// The batch dimension of a tensor.
struct BatchPlacement {
  std::optional<int64_t> dim = {};  ///< nullopt if the tensor does not depend on the batch
  int64_t each = 1;                 ///< elements per sample along it
  std::string lost = {};            ///< why the batch dimension is unknown; empty if it is known
};

/// Tracks the batch dimension through the operators of a forward in which each rank runs a shard of the
/// batch. An operator that mixes samples, or is not known, loses it; that is an error only if a result
/// depends on it.
class BatchTrace : public OperatorHandler, public SubstitutionHandler, public CrossingHandler {
 public:
  BatchTrace();
  /// Marks an input: dimension 0 of x is this rank's shard of the batch.
  void mark_batch(const at::Tensor& x);
  BatchPlacement of(const at::Tensor& x) const;
  /// Why the batch was lost in a live tensor with a grad_fn other than the results; empty if there is none.
  std::string kept_beside(const Tensors& results) const;

  Tensors around(const Operator& op, const Next& next) override;
  void on_substitute(const at::Tensor& original, const at::Tensor& replacement) override;
  void on_crossing(const at::Tensor& original, const at::Tensor& replacement) override {
    on_substitute(original, replacement);
  }

 private:
  using Weak = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;
  struct Lost {
    Weak tensor;
    std::string why;
  };

  Tensors traced(const Operator& op, const OperatorFacts& facts, const Next& next);
  Tensors on_others(const Operator& op, const OperatorFacts& facts, const Next& next);
  std::string why_lost(const at::Tensor& x) const;
  Tensors marked(const Operator& op, Tensors outputs, const Verdict& verdict);
  Tensors lost(Tensors outputs, const std::string& why);
  Verdict math(Step& step, Rule rule) const;
  bool is_even(const at::Tensor& x) const;

  KnownOperators operators_;
  Follow follow_;
  std::unordered_map<const at::TensorImpl*, Lost> lost_;
  std::unordered_map<const at::TensorImpl*, Weak> even_;  // constant over samples, or drawn for each
  int64_t here_ = 0;
  int backward_;  // the backward that the forward runs in; −1: none
};

}  // namespace wanpar
