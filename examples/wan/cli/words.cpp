#include "wan/cli/words.hpp"

#include <algorithm>
#include <charconv>

#include "wan/cli/nearest.hpp"

namespace wan {
namespace po = boost::program_options;
namespace {

[[noreturn]] void refuse_unknown(const std::string& flag, const po::options_description& known,
                                 const std::string& program) {
  std::vector<std::string> names;
  for (const auto& option : known.options()) names.push_back("--" + option->long_name());
  refuse("{} is not a flag of {}; did you mean {}?", flag, program, nearest(flag, names));
}

}  // namespace

Words::Words(const std::vector<std::string>& words, const po::options_description& known,
             const std::string& program, const std::string& may_be_empty) {
  const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  try {
    const auto parsed = po::command_line_parser(words).options(known).positional({}).style(style).run();
    po::store(parsed, values_);
  } catch (const po::unknown_option& error) {
    refuse_unknown(error.get_option_name(), known, program);
  } catch (const po::too_many_positional_options_error&) {
    refuse("a word stands alone, without a flag before it; quote texts, as in --prompt \"a red fox\"");
  } catch (const po::multiple_occurrences& error) {
    refuse("{} is given twice; once is enough", error.get_option_name());
  } catch (const po::invalid_command_line_syntax& error) {
    if (error.kind() == po::invalid_command_line_syntax::extra_parameter)
      refuse("{} is a switch and takes no value; leave the value out", error.get_option_name());
    refuse("{} needs a value; --help shows which", error.get_option_name());
  } catch (const po::error_with_option_name& error) {
    refuse("{} needs a value; --help shows which", error.get_option_name());
  }
  for (const auto& [name, value] : values_)
    if (name != may_be_empty && known.find(name, false).semantic()->max_tokens() > 0 &&
        value.as<std::string>().empty())
      refuse("--{} is empty; give a value, or leave the flag out", name);
}

std::string Words::text(const char* flag) const {
  return has(flag) ? values_[flag].as<std::string>() : std::string();
}

std::optional<std::string> Words::one_of(const char* flag, const std::vector<std::string>& choices) const {
  if (!has(flag)) return std::nullopt;
  const auto value = text(flag);
  if (std::find(choices.begin(), choices.end(), value) == choices.end())
    refuse("--{} {} is unknown; choose one of {}", flag, value, fmt::join(choices, ", "));
  return value;
}

std::optional<bool> Words::truth(const char* flag) const {
  const auto value = one_of(flag, {"true", "false"});
  return value ? std::optional(*value == "true") : std::nullopt;
}

std::optional<int64_t> Words::count(const char* flag, const Count& range) const {
  return number(flag, "a whole number", range);
}

std::optional<double> Words::amount(const char* flag, const Amount& range) const {
  return number(flag, "a number", range);
}

void Words::require(const char* flag, const std::string& example) const {
  if (!has(flag)) refuse("--{} is missing; give it, as in --{} {}", flag, flag, example);
}

template <typename Number>
std::optional<Number> Words::number(const char* flag, const char* kind, const Range<Number>& range) const {
  if (!has(flag)) return std::nullopt;
  const auto value = text(flag);
  Number number{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error == std::errc::invalid_argument || end != value.data() + value.size() || number != number)
    refuse("--{} '{}' is not {}; write it as in --{} {}", flag, value, kind, flag, range.example);
  if (error != std::errc() || number < range.least || number > range.greatest)
    refuse("--{} {} is out of range; it must be from {} to {}: {}", flag, value, range.least, range.greatest,
           range.why);
  return number;
}

}  // namespace wan
