#include "wan/cli/completion.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "wan/cli/about.hpp"
#include "wan/cli/flag.hpp"

namespace wan {
namespace {

enum class Takes { nothing, word, file, folder, text };

struct Flag {
  std::string name, shorter, what;
  Takes takes;
  std::vector<std::string> words;
};

std::vector<Flag> flags_of(const About& about) {
  std::vector<Flag> flags;
  for (const auto& option : about.flags.options()) {
    const auto& value = *option->semantic();
    const auto name = value.name();
    Flag flag{option->long_name(), short_name_of(*option), option->description(), Takes::text,
              choices_of(*option)};
    if (value.max_tokens() == 0 || value.min_tokens() == 0)
      flag.takes = Takes::nothing;
    else if (!flag.words.empty())
      flag.takes = Takes::word;
    else if (name.starts_with("FILE"))
      flag.takes = Takes::file;
    else if (name.starts_with("DIR"))
      flag.takes = Takes::folder;
    flags.push_back(std::move(flag));
  }
  return flags;
}

/// Within '…' of a shell.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char letter : text) out += letter == '\'' ? "'\\''" : std::string(1, letter);
  return out + "'";
}

std::string bash(const std::string& program, const std::vector<Flag>& flags) {
  std::string cases, names;
  for (const auto& flag : flags) {
    names += (names.empty() ? "--" : " --") + flag.name;
    const auto label = "--" + flag.name + (flag.shorter.empty() ? "" : "|" + flag.shorter);
    if (flag.takes == Takes::word)
      cases += fmt::format("    {}) mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$word\"); return ;;\n",
                           label, fmt::join(flag.words, " "));
    if (flag.takes == Takes::file || flag.takes == Takes::folder)
      cases += fmt::format(
          "    {}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen {} -- \"$word\"); return ;;\n",
          label, flag.takes == Takes::file ? "-f" : "-d");
    if (flag.takes == Takes::text) cases += fmt::format("    {}) return ;;\n", label);
  }
  return fmt::format(R"(# bash completion of {0}
_{0}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ ${{COMP_WORDS[i]}} == -- ]]; then
      compopt -o default
      return
    fi
  done
  case $before in
{1}  esac
  mapfile -t COMPREPLY < <(compgen -W '{2}' -- "$word")
}}
complete -F _{0} {0}
)",
                     program, cases, names);
}

std::string zsh(const std::string& program, const std::vector<Flag>& flags) {
  std::string lines;
  for (const auto& flag : flags) {
    std::string what;
    for (const char letter : flag.what)
      what += (letter == '[' || letter == ']' || letter == ':' ? "\\" : "") + std::string(1, letter);
    std::string action;
    if (flag.takes == Takes::word) action = fmt::format(":word:({})", fmt::join(flag.words, " "));
    if (flag.takes == Takes::file) action = ":file:_files";
    if (flag.takes == Takes::folder) action = ":folder:_files -/";
    if (flag.takes == Takes::text) action = ":value:";
    const auto equals = flag.takes == Takes::nothing ? "" : "=";
    lines += fmt::format("  {} \\\n", quoted(fmt::format("--{}{}[{}]{}", flag.name, equals, what, action)));
    if (!flag.shorter.empty())
      lines += fmt::format("  {} \\\n", quoted(fmt::format("{}[{}]{}", flag.shorter, what, action)));
  }
  return fmt::format("#compdef {}\n_arguments \\\n{}  '*::: :_normal'\n", program, lines);
}

std::string fish(const std::string& program, const std::vector<Flag>& flags) {
  std::string lines = fmt::format("# fish completion of {0}\ncomplete -c {0} -f\n", program);
  for (const auto& flag : flags) {
    std::string how;
    if (flag.takes == Takes::word)
      how = fmt::format(" -x -a {}", quoted(fmt::format("{}", fmt::join(flag.words, " "))));
    if (flag.takes == Takes::file) how = " -r -F";
    if (flag.takes == Takes::folder) how = " -x -a '(__fish_complete_directories)'";
    if (flag.takes == Takes::text) how = " -x";
    const auto shorter = flag.shorter.empty() ? "" : " -s " + flag.shorter.substr(1);
    std::string what;
    for (const char letter : flag.what) what += letter == '\'' ? "\\'" : std::string(1, letter);
    lines += fmt::format("complete -c {}{} -l {}{} -d '{}'\n", program, shorter, flag.name, how, what);
  }
  return lines;
}

}  // namespace

std::string completion(const std::string& shell, const About& about) {
  const auto flags = flags_of(about);
  if (shell == "zsh") return zsh(about.program, flags);
  if (shell == "fish") return fish(about.program, flags);
  return bash(about.program, flags);
}

}  // namespace wan
