#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>
#include <wanpar/module/model.hpp>

#include "wan/text/tokenizer.hpp"

namespace wan {

/// The text embeddings [prompts, max_tokens, dim] that the transformer attends to, on the encoder's device
/// and in its dtype: the encoding of each cleaned prompt, cut to fit, and zero rows behind it. The encoder is
/// an Umt5, a wrapped one as well.
at::Tensor encode_text(wanpar::Model encoder, const Tokenizer& tokenizer,
                       const std::vector<std::string>& prompts, int64_t max_tokens = 512);

}  // namespace wan
