#pragma once
#include <unordered_map>

#include "module/follow/rules.hpp"

namespace wanpar {

/// Facts about an operator, computed once.
struct OperatorFacts {
  Rule view = nullptr, math = nullptr;  ///< its rule; only LibTorch's operators have one
  bool is_random = false;               ///< draws random numbers
  bool is_composite = false;            ///< a composite operator of LibTorch
  bool fills = false;                   ///< its result is constant along the dimensions that it creates
};

/// A cache of OperatorFacts.
class KnownOperators {
 public:
  const OperatorFacts& of(const Operator& op);

 private:
  std::unordered_map<const void*, OperatorFacts> known_;  // by schema
};

}  // namespace wanpar
