#pragma once
#include <fmt/ranges.h>

#include <boost/program_options.hpp>
#include <cstdint>
#include <map>
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

/// --print-config as --print_config: flags may be written with either stroke, as torchrun's are.
std::string with_underscores(std::string word);

/// Where values come from: from all that Words names, or, for a program that hands variables on to others,
/// from what is typed alone.
enum class Sources { all, typed };

/// The values that a program's user has given: those of its flags as typed, then of the variables WANPAR_FLAG
/// of the environment, then of --config FILE, where the program has config_flags(); the first that has one
/// counts, and the flag's default where none has. Complaints about flags as such, and about values that are
/// not what a flag takes, are made here, as UsageError.
class Words {
 public:
  /// No flag's value may be empty but that of `may_be_empty`.
  Words(const std::vector<std::string>& words, const boost::program_options::options_description& known,
        const std::string& program, const std::string& may_be_empty = {}, Sources sources = Sources::all);

  /// The flags that somebody gave, and the value of each.
  std::map<std::string, std::string> given() const;
  /// Whether somebody gave it; a default is nobody's.
  bool has(const char* flag) const { return values_.count(flag) != 0 && !values_[flag].defaulted(); }
  std::string text(const char* flag) const;
  std::optional<std::string> one_of(const char* flag) const;  ///< of those that its table lists
  std::optional<std::string> one_of(const char* flag, const std::vector<std::string>& choices) const;
  std::optional<bool> truth(const char* flag) const;  ///< true or false
  std::optional<int64_t> count(const char* flag, const Count& range) const;
  std::optional<double> amount(const char* flag, const Amount& range) const;

  /// Refuses the absence of a flag, and shows how to write it.
  void require(const char* flag, const std::string& example) const;

  /// Where the values of flags came from that were not typed: a variable, or a file and its field.
  const std::map<std::string, std::string>& origins() const { return origins_; }
  /// What the file says that has no effect here, or another one than its reader may think.
  const std::vector<std::string>& notes() const { return notes_; }
  const boost::program_options::options_description& known() const { return known_; }
  /// Whether the program has config_flags().
  bool reads_config() const { return known_.find_nothrow("print_config", false) != nullptr; }

 private:
  template <typename Number>
  std::optional<Number> number(const char* flag, const char* kind, const Range<Number>& range) const;
  void read(const std::vector<std::string>& words, const std::string& program);
  void read_environment();
  void read_config();

  boost::program_options::options_description known_;
  boost::program_options::variables_map values_;
  std::map<std::string, std::string> origins_;
  std::vector<std::string> notes_;
};

/// The sentence, and behind it where the values come from of the flags that it names, for those that nobody
/// typed.
std::string with_origins(std::string sentence, const std::map<std::string, std::string>& origins);

}  // namespace wan
