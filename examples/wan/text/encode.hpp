#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>
#include <wanpar/module/model.hpp>

namespace wan {

/// The text embeddings [texts, max_tokens, dim] that the transformer attends to, on the encoder's device and
/// in its dtype: the encoding of each text's ids, `max_tokens` of them at most, and zero rows behind it. The
/// encoder is an Umt5, a wrapped one as well.
at::Tensor encode_text(wanpar::Model encoder, const std::vector<std::vector<int64_t>>& texts,
                       int64_t max_tokens = 512);

}  // namespace wan
