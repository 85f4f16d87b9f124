#include <wanpar/extend/files/json.hpp>

#include <fmt/format.h>

#include <set>
#include <vector>
#include <wanpar/extend/files/mapped_file.hpp>

namespace wanpar {
namespace {

using nlohmann::json;

/// Goes through a text without keeping any of it, and says why it is refused.
class Check : public json::json_sax_t {
 public:
  Check(std::string where, Repeats repeats) : where_(std::move(where)), repeats_(repeats) {}

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
    if (keys_.size() == 1) outermost_ = name;
    const bool is_new = keys_.back().insert(name).second;
    if (is_new || (repeats_ == Repeats::of_tensors && may_repeat(name))) return true;
    throw Error(fmt::format("{}: the key '{}' occurs twice", where_, name));
  }
  bool parse_error(size_t byte, const std::string&, const json::exception&) override { refuse(byte); }
  [[noreturn]] void refuse(size_t byte) const {
    throw Error(fmt::format("{}: not valid JSON at byte {}", where_, byte));
  }

 private:
  bool deeper() {
    constexpr size_t kDepth = 16;
    if (keys_.size() == kDepth) throw Error(where_ + ": the JSON is nested too deeply");
    keys_.emplace_back();
    return true;
  }

  bool may_repeat(const std::string& name) const {
    constexpr const char* kMetadata = "__metadata__";
    return keys_.size() == 1 ? name != kMetadata : keys_.size() == 2 && outermost_ == kMetadata;
  }

  std::string where_;
  Repeats repeats_;
  std::string outermost_;                    // the key that is open at the top
  std::vector<std::set<std::string>> keys_;  // of each object that is open; a list has none
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& where, Repeats repeats) {
  Check check(where, repeats);
  // The library takes a zero for the end of the text.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos) check.refuse(zero + 1);
  json::sax_parse(text, &check);
  auto result = json::parse(text);
  if (!result.is_object()) throw Error(where + ": the JSON is not an object");
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

}  // namespace wanpar
