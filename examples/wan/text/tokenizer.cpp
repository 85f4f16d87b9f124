#include "wan/text/tokenizer.hpp"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>

#include "wan/text/clean.hpp"
#include "wanpar/core/error.hpp"

namespace wan {

Tokenizer::Tokenizer(const std::filesystem::path& model)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  const auto status = processor_->Load(model.string());
  if (status.ok()) return;
  throw wanpar::Error(fmt::format("{} cannot be read as a SentencePiece model ({}); download it again",
                                  model.string(), status.ToString()));
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int64_t> Tokenizer::encode(const std::string& text, int64_t max_tokens) const {
  std::vector<int> pieces;
  const auto status = processor_->Encode(clean(text), &pieces);
  if (!status.ok()) throw wanpar::Error("the prompt cannot be tokenized: " + status.ToString());
  const auto kept = std::min<int64_t>(static_cast<int64_t>(pieces.size()), max_tokens - 1);
  std::vector<int64_t> ids(pieces.begin(), pieces.begin() + kept);
  ids.push_back(processor_->eos_id());
  return ids;
}

}  // namespace wan
