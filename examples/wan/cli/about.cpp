#include "wan/cli/about.hpp"

#include <fmt/format.h>

#include <sstream>

#include "wan/cli/completion.hpp"
#include "wan/cli/flag.hpp"
#include "wan/cli/man_page.hpp"
#include "wan/cli/print_config.hpp"

namespace wan {
namespace po = boost::program_options;

po::options_description about_flags() {
  po::options_description about("About");
  about.add_options()                                                                   //
      ("completion", one_of({"bash", "zsh", "fish"}), "bash, zsh or fish: completion")  //
      ("man", "the man page")                                                           //
      ("help,h", "this text")                                                           //
      ("version", "the version");
  return about;
}

po::options_description config_flags() {
  po::options_description config("Configuration");
  config.add_options()                                                                       //
      ("config", text("FILE"), "flags as JSON or TOML; WANPAR_FLAG and flags go before it")  //
      ("print_config", "each value, and where it came from, as such a file");
  return config;
}

bool is_about(const std::string& flag) {
  return flag == "print_config" || about_flags().find_nothrow(flag, false) != nullptr;
}

std::string help_of(const About& about) {
  std::ostringstream text;
  text << about.program << ": " << about.summary << ".\n\n" << about.usage << "\n" << about.flags;
  return text.str();
}

std::optional<std::string> answer_of(const Words& words, const About& about) {
  if (words.has("help")) return help_of(about);
  if (words.has("version")) return fmt::format("{} {}\n", about.program, WANPAR_VERSION);
  if (words.has("man")) return man_page(about, WANPAR_VERSION);
  if (words.has("completion")) return completion(*words.one_of("completion"), about);
  if (words.reads_config() && words.has("print_config")) return print_config(words);
  return std::nullopt;
}

}  // namespace wan
