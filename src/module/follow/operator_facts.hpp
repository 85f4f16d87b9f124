#pragma once
#include <unordered_map>

#include "module/follow/rules.hpp"

namespace wanpar {

/// What is known of an operator, found out once.
struct OperatorFacts {
  Rule view = nullptr, math = nullptr;  ///< its rule; LibTorch's own operators alone have one
  bool is_random = false;               ///< it draws
  bool is_composite = false;            ///< one of LibTorch's, made of other operators
  bool fills = false;  ///< what it gives is the same everywhere along the dimensions that it makes
};

/// Of every operator that it is asked about.
class KnownOperators {
 public:
  const OperatorFacts& of(const Operator& op);

 private:
  std::unordered_map<const void*, OperatorFacts> known_;  // by schema
};

}  // namespace wanpar
