#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "module/follow/rules.hpp"

namespace wanpar {

/// A number among an operator's arguments.
struct Number {
  size_t argument;
  int item;  ///< of a list; −1 where the argument is the number itself
  double value;
};

/// Operators that a strategy may have something of its own to do about.
enum class OperatorKind { any, attention, convolution, norm, cat, pad, part, reduction, product };

/// What an operator's schema says of it, found out once.
struct OperatorFacts {
  OperatorKind kind = OperatorKind::any;
  uint64_t hash = 0;                    ///< of its name
  Rule view = nullptr, math = nullptr;  ///< its rule; LibTorch's own operators alone have one
  bool is_mutable = false;              ///< it writes to an argument
  bool is_view = false;                 ///< what it gives may share memory with what it was given
  bool is_random = false;               ///< it draws
  bool is_composite = false;            ///< one of LibTorch's, made of other operators
  bool fills = false;     ///< what it gives is the same everywhere along the dimensions that it makes
  bool is_empty = false;  ///< it gives memory that is yet to be written
  std::vector<size_t>
      numbers;  ///< arguments that hold numbers, those aside that count dimensions or name a dtype
  std::vector<size_t> written;  ///< arguments that it writes to
  std::vector<bool> is_real;    ///< of each argument: a number there counts nothing
  std::vector<bool> is_extent;  ///< of each argument: a number there says how many elements there are
};

/// Of every operator that it is asked about.
class KnownOperators {
 public:
  const OperatorFacts& of(const Operator& op);

 private:
  std::unordered_map<const void*, OperatorFacts> known_;  // by schema
};

/// Whether numbers_of gives one that may count something; those that say how many elements there are aside,
/// or not.
bool has_counts(const OperatorFacts& facts, const Operator& op, bool extents_too);

/// The tensors that it writes to.
Tensors written_by(const OperatorFacts& facts, const Operator& op);

bool writes_to(const OperatorFacts& facts, const Operator& op, const at::Tensor& x);

/// Whether one that may draw random numbers does so here.
bool draws(const Operator& op);

/// The numbers among the arguments, those left out that are what the schema has by default.
std::vector<Number> numbers_of(const OperatorFacts& facts, const Operator& op);

}  // namespace wanpar
