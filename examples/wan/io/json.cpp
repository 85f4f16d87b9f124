#include "wan/io/json.hpp"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "wan/io/mapped_file.hpp"

namespace wan {

nlohmann::json parse_json(std::string_view text, const std::string& where) {
  using nlohmann::json;
  constexpr int kDepth = 16;
  std::vector<std::set<std::string>> keys;  // of each object that is open
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kDepth) throw wanpar::Error(where + ": the JSON is nested too deeply");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw wanpar::Error(where + ": the key '" + parsed.get<std::string>() + "' occurs twice");
    }
    return true;
  };
  try {
    auto result = json::parse(text, watch);
    if (!result.is_object()) throw wanpar::Error(where + ": the JSON is not an object");
    return result;
  } catch (const json::parse_error& error) {
    throw wanpar::Error(fmt::format("{}: not valid JSON at byte {}", where, error.byte));
  }
}

nlohmann::json read_json(const std::filesystem::path& file) {
  return parse_json(MappedFile::open(file)->bytes(), file.string());
}

}  // namespace wan
