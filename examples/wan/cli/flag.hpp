#pragma once
#include <boost/program_options.hpp>
#include <string>
#include <utility>
#include <vector>

// Building blocks for tables of flags. Every value is parsed as text, so that all error messages are our own.
namespace wan {

using FlagValue = boost::program_options::typed_value<std::string>;

/// A value with the placeholder `name`: FILE and DIR are completed as such, N and X are numbers, BOOL is true
/// or false.
inline FlagValue* text(const char* name) {
  return boost::program_options::value<std::string>()->value_name(name);
}
inline FlagValue* text(const char* name, const char* by_default) {
  return text(name)->default_value(by_default);
}

/// A switch: given alone it is true; --flag=false overrides a variable or a file.
inline FlagValue* switched() {
  return text("[=BOOL]")->implicit_value("true", "")->default_value("false", "");
}

/// One of several words.
class OneOf : public FlagValue {
 public:
  OneOf(const char* name, std::vector<std::string> choices)
      : FlagValue(nullptr), choices_(std::move(choices)) {
    value_name(name);
  }
  const std::vector<std::string>& choices() const { return choices_; }

 private:
  std::vector<std::string> choices_;
};

inline OneOf* one_of(std::vector<std::string> choices) { return new OneOf("NAME", std::move(choices)); }
inline FlagValue* one_of(std::vector<std::string> choices, const char* by_default) {
  return one_of(std::move(choices))->default_value(by_default);
}

/// The words that the flag accepts; empty if it accepts any text.
inline std::vector<std::string> choices_of(const boost::program_options::option_description& flag) {
  const auto* semantic = flag.semantic().get();
  if (const auto* one = dynamic_cast<const OneOf*>(semantic)) return one->choices();
  const auto name = semantic->name();
  return name.starts_with("BOOL") || name == "[=BOOL]" ? std::vector<std::string>{"true", "false"}
                                                       : std::vector<std::string>{};
}

/// -n for "nproc_per_node,n"; empty if the flag has no short name.
inline std::string short_name_of(const boost::program_options::option_description& flag) {
  namespace style = boost::program_options::command_line_style;
  const auto name = flag.canonical_display_name(style::allow_dash_for_short);
  return name.starts_with('-') ? name : std::string();
}

}  // namespace wan
