#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "wan/text/tokenizer.hpp"
#include "wan/text/umt5.hpp"

namespace wan {

/// The text embeddings [prompts, max_tokens, dim] that the transformer attends to, on the encoder's device
/// and in its dtype: the encoding of each cleaned prompt, cut to fit, and zero rows behind it.
at::Tensor encode_text(Umt5& encoder, const Tokenizer& tokenizer, const std::vector<std::string>& prompts,
                       int64_t max_tokens = 512);

}  // namespace wan
