#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "module/follow/operator_facts.hpp"
#include "strategy/sequence_parallel/extent.hpp"

namespace wanpar {

/// What every rank must find alike in a first pass, noted operator by operator and compared where the ranks
/// meet: the operators themselves, the numbers among their arguments, and the values of tensors that are not
/// split. What differs was made of the tokens that are here.
class Consensus {
 public:
  /// The rows [rank][number] of all ranks.
  using Gather = std::function<std::vector<std::vector<double>>(const std::vector<double>&)>;

  /// An operator of this hash is called now.
  void called(uint64_t operator_hash);
  /// It is given this number; one that says how many elements there are may follow the length of a split.
  void note(const Operator& op, const Number& number, bool may_be_extent);
  /// The operator of this name is given this tensor, which is not split.
  void note(const std::string& name, const at::Tensor& x);

  /// The module gives this, which is not split.
  void note_result(const at::Tensor& x);

  /// The same number on ranks that have called the same operators since the last time.
  int64_t fingerprint() const { return fingerprint_; }
  /// Collective, for ranks of one fingerprint. Throws Error, alike on all ranks, where something noted
  /// differs.
  void compare(const Gather& gather, const std::vector<std::vector<double>>& lengths);

 private:
  void note_values(const std::string& name, const at::Tensor& x);

  enum class Kind { number, extent, sum };
  struct Entry {
    std::string name;  // of the operator, and of what it was given
    Kind kind;
    double tolerance = 0;  // of a sum, relative to that of the absolute values, which is its second number
  };
  std::vector<Entry> entries_;
  std::vector<double> values_;  // two for a sum, one for any other
  int64_t fingerprint_ = 0;
};

/// The sentence for a number that differs by rank.
std::string differs_by_rank(const std::string& what, const std::vector<double>& values);

}  // namespace wanpar
