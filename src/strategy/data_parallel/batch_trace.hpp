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

/// Where the batch is in a tensor.
struct BatchPlacement {
  std::optional<int64_t> dim = {};  ///< none where the tensor does not stem from the batch
  int64_t each = 1;                 ///< elements along it of each sample
  std::string lost = {};            ///< why that is not known; empty where it is
};

/// Knows where the batch lies in the tensors of a forward of which each rank runs some samples, operator by
/// operator. What needs samples of other ranks, or is not known, loses it, which is no matter until a result
/// stems from there.
class BatchTrace : public OperatorHandler, public SubstitutionHandler, public CrossingHandler {
 public:
  BatchTrace();
  /// x holds this rank's samples in its dimension 0.
  void mark_batch(const at::Tensor& x);
  BatchPlacement of(const at::Tensor& x) const;
  /// What lost the batch of a tensor with a history that is kept, beside these; empty where there is none.
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
  std::unordered_map<const at::TensorImpl*, Weak> even_;  // the same for every sample, or drawn for each
  int64_t here_ = 0;
  int backward_;  // that the forward runs in; −1: in none
};

}  // namespace wanpar
