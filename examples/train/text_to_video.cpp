#include "train/text_to_video.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "train/weights.hpp"

namespace wan::train {

TextToVideoImpl::TextToVideoImpl(const TextEncoderConfig& text_config, const TransformerConfig& config)
    : text_encoder(register_module("text_encoder", Umt5(text_config))),
      transformer(register_module("transformer", Transformer(config))) {}

std::vector<at::Tensor> TextToVideoImpl::forward(at::Tensor latents, at::Tensor timestep, at::Tensor ids,
                                                 at::Tensor mask) {
  const auto encoding = text_encoder(ids, mask).masked_fill(mask.eq(0).unsqueeze(-1), 0);
  const auto text = at::constant_pad_nd(encoding, {0, 0, 0, transformer->config().text_len - ids.size(1)});
  return {transformer(latents, timestep, text)};
}

void TextToVideoImpl::initialize(uint64_t seed) {
  const auto head_dim = static_cast<double>(text_encoder->config().head_dim);
  fill_each(*this, seed, [&](const std::string& name, at::Tensor parameter, at::Generator generator) {
    if (has(name, "token_embedding"))
      parameter.normal_(0, 1, generator);
    else if (has(name, "pos_embedding"))
      parameter.normal_(0, 0.3, generator);
    else if (has(name, "norm") && has(name, "weight"))
      parameter.fill_(1);
    else if (has(name, "bias") || has(name, "modulation") || has(name, "head.head") ||
             (has(name, "transformer.") && (has(name, "attn.o") || has(name, "ffn.2"))))
      parameter.zero_();
    else if (has(name, "text_encoder") && has(name, "attn.q"))
      fill_layer(parameter, generator, 1 / std::sqrt(head_dim));  // umT5 does not scale its scores down
    else if (has(name, "time_projection"))
      fill_layer(parameter, generator, 0.1);
    else
      fill_layer(parameter, generator);
  });
  // Blocks' own gates are open, what they let through is nothing yet.
  at::NoGradGuard no_grad;
  for (const auto& parameter : named_parameters())
    if (has(parameter.key(), "blocks.") && has(parameter.key(), "modulation"))
      for (const auto gate : {2, 5}) parameter.value().select(1, gate).fill_(1);
}

}  // namespace wan::train
