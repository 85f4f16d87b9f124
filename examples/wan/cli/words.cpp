#include "wan/cli/words.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>

#include "wan/cli/about.hpp"
#include "wan/cli/config_file.hpp"
#include "wan/cli/fields.hpp"
#include "wan/cli/flag.hpp"
#include "wan/cli/nearest.hpp"

namespace wan {
namespace po = boost::program_options;
namespace {

std::vector<std::string> names_of(const po::options_description& known) {
  std::vector<std::string> names;
  for (const auto& option : known.options()) names.push_back("--" + option->long_name());
  return names;
}

/// WANPAR_SAMPLE_STEPS of sample_steps.
std::string variable_of(const std::string& flag) {
  std::string name = "WANPAR_" + flag;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::toupper(letter)); });
  return name;
}

void add(po::parsed_options& parsed, const std::string& flag, const std::string& value) {
  parsed.options.emplace_back(flag, std::vector{value});
}

}  // namespace

std::string with_underscores(std::string word) {
  if (word.size() > 2 && word.starts_with("--"))
    std::replace(word.begin() + 2,
                 word.begin() + static_cast<std::ptrdiff_t>(std::min(word.find('='), word.size())), '-', '_');
  return word;
}

Words::Words(const std::vector<std::string>& words, const po::options_description& known,
             const std::string& program, const std::string& may_be_empty, Sources sources)
    : known_(known) {
  read(words, program);
  if (sources == Sources::all) read_environment();
  if (reads_config() && has("config")) read_config();
  for (const auto& [name, value] : values_)
    if (name != may_be_empty && known_.find(name, false).semantic()->max_tokens() > 0 &&
        value.as<std::string>().empty())
      refuse("--{} is empty; give a value, or leave the flag out", name);
}

void Words::read(const std::vector<std::string>& words, const std::string& program) {
  auto spelled = words;
  // A value is not a flag, though it may look like one: "- blur" begins with one stroke, and keeps it.
  std::transform(spelled.begin(), spelled.end(), spelled.begin(), with_underscores);
  const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  try {
    po::store(po::command_line_parser(spelled).options(known_).positional({}).style(style).run(), values_);
  } catch (const po::unknown_option& error) {
    refuse("{} is not a flag of {}; did you mean {}?", error.get_option_name(), program,
           nearest(error.get_option_name(), names_of(known_)));
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
}

void Words::read_environment() {
  po::parsed_options parsed(&known_);
  for (const auto& option : known_.options()) {
    const auto& flag = option->long_name();
    const auto variable = variable_of(flag);
    const auto* value = std::getenv(variable.c_str());
    if (!value || !*value || has(flag.c_str()) || is_about(flag) || option->semantic()->max_tokens() == 0)
      continue;
    add(parsed, flag, value);
    origins_[flag] = variable;
  }
  po::store(parsed, values_);
}

void Words::read_config() {
  const std::filesystem::path file = text("config");
  std::vector<std::string> flags;
  for (const auto& option : known_.options())
    if (!is_about(option->long_name()) && option->long_name() != "config")
      flags.push_back(option->long_name());
  auto translated = flags_of_fields(read_fields(file), flags, file.string());
  po::parsed_options parsed(&known_);
  for (const auto& setting : translated.settings) {
    if (has(setting.flag.c_str())) continue;
    add(parsed, setting.flag, setting.value);
    origins_[setting.flag] = setting.field.empty() ? file.string() : file.string() + ": " + setting.field;
  }
  po::store(parsed, values_);
  notes_ = std::move(translated.notes);
}

std::map<std::string, std::string> Words::given() const {
  std::map<std::string, std::string> flags;
  for (const auto& [name, value] : values_)
    if (!value.defaulted()) flags[name] = value.as<std::string>();
  return flags;
}

std::string Words::text(const char* flag) const {
  return values_.count(flag) ? values_[flag].as<std::string>() : std::string();
}

std::optional<std::string> Words::one_of(const char* flag) const {
  return one_of(flag, choices_of(known_.find(flag, false)));
}

std::optional<std::string> Words::one_of(const char* flag, const std::vector<std::string>& choices) const {
  if (!values_.count(flag)) return std::nullopt;
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
  if (!values_.count(flag)) return std::nullopt;
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

std::string with_origins(std::string sentence, const std::map<std::string, std::string>& origins) {
  std::string told;
  for (const auto& [flag, origin] : origins) {
    const auto name = "--" + flag;
    const auto at = sentence.find(name);
    const auto end = at + name.size();
    if (at == sentence.npos) continue;
    if (end < sentence.size() &&
        (std::isalnum(static_cast<unsigned char>(sentence[end])) || sentence[end] == '_'))
      continue;
    told += fmt::format("{}{} is from {}", told.empty() ? " (" : ", ", name, origin);
  }
  return told.empty() ? sentence : sentence + told + ")";
}

}  // namespace wan
