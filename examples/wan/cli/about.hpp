#pragma once
#include <boost/program_options.hpp>
#include <optional>
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// A program, as its help, its man page and its completion describe it.
struct About {
  std::string program;
  std::string summary;  ///< what it does, in a few words
  std::string usage;    ///< lines that show how it is started, and what else is to be known
  boost::program_options::options_description flags;
  bool reads_variables = true;  ///< Sources::all
};

/// The flags that every program has: those that make it tell something about itself.
boost::program_options::options_description about_flags();
/// Those of programs that read a file: --config, and --print_config.
boost::program_options::options_description config_flags();
/// Whether the flag is one of them that asks the program for something else than its work.
bool is_about(const std::string& flag);

/// The text of --help.
std::string help_of(const About& about);

/// What a flag of about_flags() asks for; none where the user gave none of them.
std::optional<std::string> answer_of(const Words& words, const About& about);

}  // namespace wan
