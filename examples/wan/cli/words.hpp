#pragma once
#include <fmt/ranges.h>

#include <boost/program_options.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "wan/cli/usage_error.hpp"

namespace wan {

template <typename... Parts>
[[noreturn]] void refuse(fmt::format_string<Parts...> sentence, Parts&&... parts) {
  throw UsageError(fmt::format(sentence, std::forward<Parts>(parts)...));
}

/// What a number may be, why, and a value for the sentence that shows how to write it.
template <typename Number>
struct Range {
  Number least, greatest;
  const char* why;
  const char* example;
};

using Count = Range<int64_t>;
using Amount = Range<double>;

// Of flags that all programs have.
constexpr Count kDegree = {1, 4096, "no run has more ranks", "2"};
constexpr Count kLocalRanks = {1, 64, "they are threads that share the cores of this machine", "2"};
constexpr Amount kTimeout = {0.1, 1e6, "it is in seconds", "60"};

/// The flags of a program as typed: name to text. Complaints about flags as such, and about values that are
/// not what a flag takes, are made here, as UsageError.
class Words {
 public:
  /// No flag's value may be empty but that of `may_be_empty`.
  Words(const std::vector<std::string>& words, const boost::program_options::options_description& known,
        const std::string& program, const std::string& may_be_empty = {});

  bool has(const char* flag) const { return values_.count(flag) != 0; }
  std::string text(const char* flag) const;
  std::optional<std::string> one_of(const char* flag, const std::vector<std::string>& choices) const;
  std::optional<bool> truth(const char* flag) const;  ///< true or false
  std::optional<int64_t> count(const char* flag, const Count& range) const;
  std::optional<double> amount(const char* flag, const Amount& range) const;

  /// Refuses the absence of a flag, and shows how to write it.
  void require(const char* flag, const std::string& example) const;

 private:
  template <typename Number>
  std::optional<Number> number(const char* flag, const char* kind, const Range<Number>& range) const;

  boost::program_options::variables_map values_;
};

}  // namespace wan
