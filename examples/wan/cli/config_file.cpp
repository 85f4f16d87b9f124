#include "wan/cli/config_file.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string_view>

#include "wan/cli/words.hpp"

namespace wan {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kLargest = 1 << 20;  // bytes; a configuration has some hundreds
constexpr int kDepth = 4;

std::string read_text(const std::filesystem::path& file) {
  std::error_code none;
  const bool is_file = std::filesystem::is_regular_file(file, none);  // a pipe would be waited for
  std::ifstream in(is_file ? file : "", std::ios::binary);
  if (!in) refuse("--config {} cannot be read; give a JSON or TOML file", file.string());
  if (std::filesystem::file_size(file, none) > kLargest)
    refuse("--config {} has more than 1 MiB, so it is no configuration", file.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

size_t line_of(const std::string& text, size_t byte) {
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(byte, text.size()));
  return 1 + static_cast<size_t>(std::count(text.begin(), end, '\n'));
}

/// As the library's events come: a name that an object has twice would else go by unseen.
Json parse_json(const std::string& text, const std::string& where) {
  std::vector<std::set<std::string>> names;
  const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kDepth) refuse("{} is nested too deeply for a configuration", where);
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second)
      refuse("{} says '{}' twice; once is enough", where, value.get<std::string>());
    return true;
  };
  try {
    return Json::parse(text, check, true, /*ignore_comments=*/true);
  } catch (const Json::parse_error& error) {
    refuse("{} is not valid JSON in line {}", where, line_of(text, error.byte));
  } catch (const Json::out_of_range&) {
    refuse("{} has a number that is too large to be read", where);
  }
}

Json of_toml(const toml::node& node) {
  if (const auto* table = node.as_table()) {
    // The library sorts names; the order of the text says which of them comes first.
    std::vector<std::pair<toml::source_position, std::string>> order;
    for (const auto& [name, value] : *table) order.emplace_back(name.source().begin, std::string(name.str()));
    std::sort(order.begin(), order.end());
    auto object = Json::object();
    for (const auto& [position, name] : order) object[name] = of_toml(*table->get(name));
    return object;
  }
  if (const auto* array = node.as_array()) {
    auto list = Json::array();
    for (const auto& item : *array) list.push_back(of_toml(item));
    return list;
  }
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* whole = node.as_integer()) return whole->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* truth = node.as_boolean()) return truth->get();
  throw UsageError("dates and times say nothing here");
}

Json parse_toml(const std::string& text, const std::string& where) {
  try {
    return of_toml(toml::parse(text));
  } catch (const toml::parse_error& error) {
    refuse("{} is not valid TOML in line {}: {}", where, error.source().begin.line,
           std::string(error.description()));
  } catch (const UsageError& error) {
    refuse("{}: {}", where, error.what());
  }
}

std::string text_of(const Json& value, const std::string& name, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean() || value.is_number()) return value.dump();
  if (!value.is_array()) refuse("{}: '{}' is no value that a flag could have", where, name);
  std::string items;
  for (const auto& item : value) {
    if (item.is_array() || item.is_object() || item.is_null())
      refuse("{}: '{}' is a list of something else than numbers and words", where, name);
    items += (items.empty() ? "" : ",") + text_of(item, name, where);
  }
  return items;
}

void add_fields(std::vector<Field>& fields, const Json& object, const std::string& where) {
  for (const auto& [name, value] : object.items()) {
    if (value.is_object()) {
      add_fields(fields, value, where);
    } else if (!value.is_null()) {
      const auto said =
          std::any_of(fields.begin(), fields.end(), [&](auto& one) { return one.name == name; });
      if (said) refuse("{} says '{}' twice; once is enough", where, name);
      fields.push_back({name, text_of(value, name, where)});
    }
  }
}

}  // namespace

std::vector<Field> read_fields(const std::filesystem::path& file) {
  const auto text = read_text(file);
  const auto json =
      file.extension() == ".toml" ? parse_toml(text, file.string()) : parse_json(text, file.string());
  if (!json.is_object()) refuse("{}: the JSON is not an object of names and values", file.string());
  const bool is_workflow = json.contains("nodes") || std::any_of(json.begin(), json.end(), [](auto& one) {
                             return one.is_object() && one.contains("class_type");
                           });
  if (is_workflow)
    refuse("{} is a ComfyUI workflow; wanrun --create-script --workflow {} makes a script of it",
           file.string(), file.string());
  std::vector<Field> fields;
  add_fields(fields, json, file.string());
  return fields;
}

}  // namespace wan
