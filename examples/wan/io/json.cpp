#include "wan/io/json.hpp"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "wan/io/mapped_file.hpp"

namespace wan {
namespace {

using nlohmann::json;

/// Goes through a text without keeping any of it, and says why it is refused.
class Check : public json::json_sax_t {
 public:
  explicit Check(std::string where) : where_(std::move(where)) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return deeper(); }
  bool start_array(size_t) override { return deeper(); }
  bool end_object() override { return keys_.pop_back(), true; }
  bool end_array() override { return keys_.pop_back(), true; }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    throw wanpar::Error(fmt::format("{}: the key '{}' occurs twice", where_, name));
  }
  bool parse_error(size_t byte, const std::string&, const json::exception&) override {
    throw wanpar::Error(fmt::format("{}: not valid JSON at byte {}", where_, byte));
  }

 private:
  bool deeper() {
    constexpr size_t kDepth = 16;
    if (keys_.size() == kDepth) throw wanpar::Error(where_ + ": the JSON is nested too deeply");
    keys_.emplace_back();
    return true;
  }

  std::string where_;
  std::vector<std::set<std::string>> keys_;  // of each object that is open; a list has none
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& where) {
  Check check(where);
  json::sax_parse(text, &check);
  auto result = json::parse(text);
  if (!result.is_object()) throw wanpar::Error(where + ": the JSON is not an object");
  return result;
}

std::string shown(const nlohmann::json& value) {
  constexpr size_t kLongest = 60;
  const auto text = value.dump(-1, ' ', true);  // ASCII alone: it may be cut anywhere
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "…";
}

nlohmann::json read_json(const std::filesystem::path& file) {
  return parse_json(MappedFile::open(file)->bytes(), file.string());
}

}  // namespace wan
