#pragma once
#include <boost/program_options.hpp>
#include <optional>
#include <string>
#include <utility>

#include "wan/cli/words.hpp"

namespace wan {

/// The description of a program, for its help, man page and completion.
struct About {
  std::string program;
  std::string summary;  ///< what it does, in a few words
  std::string usage;    ///< lines that show how it is started, and further notes
  boost::program_options::options_description flags;
  bool reads_variables = true;  ///< Sources::all
};

/// The flags of every program for information about itself.
boost::program_options::options_description about_flags();
/// The flags of programs that read a file: --config, and --print_config.
boost::program_options::options_description config_flags();
/// Whether the flag is one of about_flags() or config_flags() that asks for information instead of the
/// program's work.
bool is_about(const std::string& flag);

/// The text of --help.
std::string help_of(const About& about);

/// The text that a flag of about_flags() asks for; nullopt if the user gave none of them.
std::optional<std::string> answer_of(const Words& words, const About& about);

/// What `read` makes of the words, or the answer alone if a flag of about_flags() asks for one. Throws
/// UsageError, which names the variable or the field that a value came from.
template <class Options>
Options options_or_answer(const Words& words, const About& about, Options (*read)(const Words&)) {
  if (auto answer = answer_of(words, about)) {
    Options options;
    options.answer = std::move(answer);
    return options;
  }
  try {
    return read(words);
  } catch (const UsageError& error) {
    throw UsageError(with_origins(error.what(), words.origins()));
  }
}

}  // namespace wan
