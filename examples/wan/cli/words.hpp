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

/// The valid range of a number, the reason for it, and an example for the error message.
template <typename Number>
struct Range {
  Number least, greatest;
  const char* why;
  const char* example;
};

using Count = Range<int64_t>;
using Amount = Range<double>;

// For flags of all programs.
constexpr Count kDegree = {1, 4096, "no run has more ranks", "2"};
constexpr Count kLocalRanks = {1, 64, "they are threads that share the cores of this machine", "2"};
constexpr Amount kTimeout = {0.1, 1e6, "it is in seconds", "60"};

/// --print-config as --print_config: flags may be written with dashes or underscores, like torchrun's.
std::string with_underscores(std::string word);

/// The sources of values: all that Words lists, or, for a program that passes variables on to others, flags
/// only.
enum class Sources { all, typed };

/// The values of a program's flags: as given on the command line, else by a variable WANPAR_FLAG, else by
/// --config FILE, if the program has config_flags(), else the default. Throws UsageError for unknown flags,
/// and for values that a flag does not accept.
class Words {
 public:
  /// No flag may have an empty value, except `may_be_empty`.
  Words(const std::vector<std::string>& words, const boost::program_options::options_description& known,
        const std::string& program, const std::string& may_be_empty = {}, Sources sources = Sources::all);

  /// The flags that were given by any source, and their values.
  std::map<std::string, std::string> given() const;
  /// Whether any source gave it; false for a default.
  bool has(const char* flag) const { return values_.count(flag) != 0 && !values_[flag].defaulted(); }
  std::string text(const char* flag) const;
  std::optional<std::string> one_of(const char* flag) const;  ///< one of those that its table lists
  std::optional<std::string> one_of(const char* flag, const std::vector<std::string>& choices) const;
  std::optional<bool> truth(const char* flag) const;  ///< true or false
  std::optional<int64_t> count(const char* flag, const Count& range) const;
  std::optional<double> amount(const char* flag, const Amount& range) const;

  /// Throws UsageError if the flag is absent, with an example.
  void require(const char* flag, const std::string& example) const;

  /// The sources of values that were not flags: a variable, or a file and its field.
  const std::map<std::string, std::string>& origins() const { return origins_; }
  /// Remarks on fields of the file that have no effect here, or another one than expected.
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

/// The message, followed by the sources of the flags that it names, for those that were not given as flags.
std::string with_origins(std::string sentence, const std::map<std::string, std::string>& origins);

}  // namespace wan
