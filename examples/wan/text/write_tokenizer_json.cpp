#include <nlohmann/json.hpp>

#include "wan/text/vocabulary.hpp"

namespace wan {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t kSpecials = 4, kEndId = 1, kUnknownId = 3;

OrderedJson special_token(size_t id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

OrderedJson sequence(const char* id, int type) { return {{"Sequence", {{"id", id}, {"type_id", type}}}}; }

OrderedJson special(const std::string& token) { return {{"SpecialToken", {{"id", token}, {"type_id", 0}}}}; }

}  // namespace

std::string tokenizer_json(const Unigram::Pieces& vocabulary) {
  auto pieces = OrderedJson::array(), specials = OrderedJson::array();
  for (const auto& [piece, score] : vocabulary) pieces.push_back({piece, score});
  for (size_t id = 0; id < kSpecials; ++id) specials.push_back(special_token(id, vocabulary.at(id).first));
  const auto& end = vocabulary[kEndId].first;
  return OrderedJson{
             {"version", "1.0"},
             {"truncation", nullptr},
             {"padding", nullptr},
             {"added_tokens", specials},
             {"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}}},
             {"pre_tokenizer",
              {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", true}}},
             {"post_processor",
              {{"type", "TemplateProcessing"},
               {"single", OrderedJson::array({sequence("A", 0), special(end)})},
               {"pair", OrderedJson::array({sequence("A", 0), sequence("B", 1)})},
               {"special_tokens", {{end, {{"id", end}, {"ids", {kEndId}}, {"tokens", {end}}}}}}}},
             {"decoder", nullptr},
             {"model",
              {{"type", "Unigram"}, {"unk_id", kUnknownId}, {"vocab", pieces}, {"byte_fallback", false}}}}
             .dump(1) +
         "\n";
}

}  // namespace wan
