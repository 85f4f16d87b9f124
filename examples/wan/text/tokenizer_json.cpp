#include <fmt/format.h>
#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <array>
#include <string_view>
#include <wanpar/extend/files/json.hpp>

#include "wan/text/charsmap.hpp"
#include "wan/text/tokenizer_model.hpp"

namespace wan {
namespace {

using nlohmann::json;

/// A part of the file, to be read by its "type".
class Node {
 public:
  Node(const json& value, std::string where) : value_(value), where_(std::move(where)) {}

  std::string type() const { return wanpar::value_at<std::string>(value_, "type", where_); }
  Node operator[](const char* key) const { return {child(key), fmt::format("{}: '{}'", where_, key)}; }
  bool has(const char* key) const {
    return value_.is_object() && value_.contains(key) && !value_.at(key).is_null();
  }
  template <class T>
  T get(const char* key, T otherwise) const {
    return has(key) ? wanpar::value_at<T>(value_, key, where_) : otherwise;
  }
  template <class T>
  T get(const char* key) const {
    return wanpar::value_at<T>(value_, key, where_);
  }
  std::vector<Node> items(const char* key) const {
    const auto& list = child(key);
    if (!list.is_array())
      throw wanpar::Error(
          fmt::format("{}: '{}' must be a list, but is {}", where_, key, wanpar::shown(list)));
    std::vector<Node> parts;
    for (const auto& item : list) parts.emplace_back(item, fmt::format("{}: '{}'", where_, key));
    return parts;
  }
  const json& value() const { return value_; }

  [[noreturn]] void refuse(const std::string& what) const {
    throw wanpar::Error(fmt::format(
        "{}: {} is not built; put the spiece.model of google/umt5-xxl in its place", where_, what));
  }

 private:
  const json& child(const char* key) const {
    const auto found = value_.find(key);
    if (!value_.is_object() || found == value_.end())
      throw wanpar::Error(fmt::format("{}: '{}' is missing", where_, key));
    return *found;
  }

  const json& value_;
  std::string where_;
};

std::string all_replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; !from.empty() && (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

/// Runs of two spaces and more.
std::string runs_all_replaced(const std::string& text, const std::string& to) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find_first_not_of(' ', at), text.size());
    if (end - at >= 2)
      result += to;
    else
      result.append(text, at, end - at);
    at = end;
    for (; at < text.size() && text[at] != ' '; ++at) result += text[at];
  }
  return result;
}

std::string stripped(std::string text, bool left, bool right) {
  constexpr const char* kSpaces = " \t\n\r\v\f";
  if (right) text.erase(text.find_last_not_of(kSpaces) + 1);
  if (left) text.erase(0, std::min(text.find_first_not_of(kSpaces), text.size()));
  return text;
}

std::string of_form(const std::string& text, const icu::Normalizer2* (*form)(UErrorCode&)) {
  UErrorCode status = U_ZERO_ERROR;
  std::string result;
  const auto* normalizer = form(status);
  if (U_SUCCESS(status))
    normalizer->normalize(icu::UnicodeString::fromUTF8(text), status).toUTF8String(result);
  if (U_FAILURE(status))
    throw wanpar::Error(std::string("ICU cannot normalise the prompt: ") + u_errorName(status));
  return result;
}

std::string from_base64(const std::string& text, const Node& where) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char digit : text.substr(0, text.find('='))) {
    const auto value = kDigits.find(digit);
    if (value == std::string_view::npos) where.refuse("a text that is not base64");
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) bytes.push_back(static_cast<char>(bits >> (count -= 8) & 0xff));
  }
  return bytes;
}

void take_normalizer(const Node& part, TokenizerModel& model) {
  const auto type = part.type();
  auto& steps = model.normalize;
  if (type == "Sequence") {
    for (const auto& item : part.items("normalizers")) take_normalizer(item, model);
  } else if (type == "Precompiled") {
    const auto table = from_base64(part.get<std::string>("precompiled_charsmap"), part);
    if (!table.empty())
      steps.emplace_back([map = Charsmap(table)](const std::string& text) { return map.apply(text); });
  } else if (type == "Replace") {
    const auto to = part.get<std::string>("content");
    const auto pattern = part["pattern"];
    if (const auto from = pattern.get<std::string>("String", ""); !from.empty())
      steps.emplace_back([=](std::string text) { return all_replaced(std::move(text), from, to); });
    else if (pattern.get<std::string>("Regex", "") == " {2,}")
      steps.emplace_back([=](const std::string& text) { return runs_all_replaced(text, to); });
    else
      pattern.refuse("the pattern " + wanpar::shown(pattern.value()));
  } else if (type == "Strip") {
    const auto left = part.get<bool>("strip_left", false), right = part.get<bool>("strip_right", false);
    steps.emplace_back([=](std::string text) { return stripped(std::move(text), left, right); });
  } else if (type == "NFC") {
    steps.emplace_back(
        [](const std::string& text) { return of_form(text, icu::Normalizer2::getNFCInstance); });
  } else if (type == "NFKC") {
    steps.emplace_back(
        [](const std::string& text) { return of_form(text, icu::Normalizer2::getNFKCInstance); });
  } else {
    part.refuse("the normalizer " + type);
  }
}

void take_pre_tokenizer(const Node& part, TokenizerModel& model) {
  const auto type = part.type();
  if (type == "Sequence") {
    for (const auto& item : part.items("pretokenizers")) take_pre_tokenizer(item, model);
  } else if (type == "WhitespaceSplit") {
    model.drops_spaces = true;
  } else if (type == "Metaspace") {
    if (part.get<std::string>("replacement", "▁") != "▁" || !part.get<bool>("split", true))
      part.refuse("spaces that are not marked by ▁, or words that are not cut there,");
    const auto scheme = part.get<std::string>("prepend_scheme",
                                              part.get<bool>("add_prefix_space", true) ? "always" : "never");
    using Space = TokenizerModel::Space;
    model.space = scheme == "always"  ? Space::before_every_part
                  : scheme == "first" ? Space::before_the_first
                                      : Space::nowhere;
  } else {
    part.refuse("the pre-tokenizer " + type);
  }
}

void take_model(const Node& part, TokenizerModel& model) {
  if (part.get<std::string>("type", "Unigram") != "Unigram") part.refuse("the model " + part.type());
  for (const auto& item : part.items("vocab")) {
    const auto& piece = item.value();
    if (!piece.is_array() || piece.size() != 2 || !piece[0].is_string() || !piece[1].is_number())
      item.refuse("the piece " + wanpar::shown(piece));
    model.pieces.emplace_back(piece[0].get<std::string>(), piece[1].get<double>());
  }
  model.unknown = part.get<int64_t>("unk_id");
  model.bytes = part.get<bool>("byte_fallback", false);
  if (model.unknown < 0 || model.unknown >= static_cast<int64_t>(model.pieces.size()))
    part.refuse(fmt::format("'unk_id' {} among {} pieces", model.unknown, model.pieces.size()));
}

}  // namespace

TokenizerModel read_tokenizer_json(const std::filesystem::path& file) {
  const auto json = [&] {
    try {
      return wanpar::read_json(file);
    } catch (const wanpar::Error& error) {
      throw wanpar::Error(
          fmt::format("{}; take tokenizer.json or spiece.model of google/umt5-xxl", error.what()));
    }
  }();
  const Node whole(json, file.string());
  TokenizerModel model;
  model.space = TokenizerModel::Space::nowhere;
  take_model(whole["model"], model);
  if (whole.has("normalizer")) take_normalizer(whole["normalizer"], model);
  if (whole.has("pre_tokenizer")) take_pre_tokenizer(whole["pre_tokenizer"], model);
  if (!whole.has("added_tokens")) return model;
  for (const auto& token : whole.items("added_tokens"))
    model.special.push_back({.text = token.get<std::string>("content"),
                             .id = token.get<int64_t>("id"),
                             .takes_spaces_before = token.get<bool>("lstrip", false),
                             .takes_spaces_behind = token.get<bool>("rstrip", false),
                             .is_whole_word = token.get<bool>("single_word", false),
                             .is_in_normalized = token.get<bool>("normalized", false)});
  return model;
}

}  // namespace wan
