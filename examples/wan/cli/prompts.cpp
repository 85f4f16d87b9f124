#include "wan/cli/prompts.hpp"

#include <fmt/format.h>

#include <fstream>
#include <system_error>

namespace wan {
namespace {

std::string trimmed(const std::string& line) {
  constexpr auto* kBlank = " \t\r";  // a file from Windows ends its lines with \r
  const auto first = line.find_first_not_of(kBlank);
  return first == std::string::npos ? "" : line.substr(first, line.find_last_not_of(kBlank) - first + 1);
}

std::vector<std::string> read_lines(const std::filesystem::path& file) {
  std::error_code no;
  const bool is_file = std::filesystem::is_regular_file(file, no);  // a pipe would be waited for
  std::ifstream in(is_file ? file : "");
  if (!in)
    throw UsageError(fmt::format(
        "--prompt_file {} cannot be read; give a text file with a prompt on each line", file.string()));
  std::vector<std::string> prompts;
  for (std::string line; std::getline(in, line);) {
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (prompts.empty() && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
    if (auto prompt = trimmed(line); !prompt.empty()) prompts.push_back(std::move(prompt));
  }
  if (prompts.empty())
    throw UsageError(fmt::format("--prompt_file {} holds no prompt; write one on each line", file.string()));
  return prompts;
}

}  // namespace

std::vector<std::string> prompts_of(const Options& options) {
  auto prompts = options.prompt_file.empty() ? std::vector{options.prompt} : read_lines(options.prompt_file);
  const auto groups = options.degrees.data.value_or(1);
  if (groups > static_cast<int64_t>(prompts.size()))
    throw UsageError(
        fmt::format("--data_parallel_size {} has more groups than there are prompts, {}; give more by "
                    "--prompt_file, or let --ulysses_size and --ring_size share one",
                    groups, prompts.size()));
  return prompts;
}

}  // namespace wan
