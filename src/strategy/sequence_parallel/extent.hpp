#pragma once
#include <optional>
#include <span>
#include <vector>

namespace wanpar {

/// A number that a module has made of how many tokens a rank holds: times · length + more, summed over some
/// splits, divided and rounded down; a constant where there is none.
struct Extent {
  struct Term {
    int split;
    double times;
    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms = {};
  double more = 0;
  double divisor = 1;

  bool is_constant() const { return terms.empty(); }
  /// Whether it is the length of one split, as it stands.
  bool is_length() const { return terms.size() == 1 && terms[0].times == 1 && more == 0 && divisor == 1; }
  /// Its value where split i has `lengths[i]` tokens.
  double of(std::span<const double> lengths) const;
  bool operator==(const Extent&) const = default;
};

/// What a number is that the ranks have as `values`, where split i has `lengths[i][rank]` tokens on each: a
/// constant that all have alike, or made of those lengths. None where it is neither: then the module made it
/// of what one rank holds in a way that says nothing of the whole.
std::optional<Extent> extent_of(std::span<const double> values,
                                const std::vector<std::vector<double>>& lengths);

}  // namespace wanpar
