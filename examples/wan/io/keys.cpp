#include "wan/io/keys.hpp"

#include <fmt/format.h>

#include <utility>
#include <vector>

namespace wan {
namespace {

/// Each rule replaces the first occurrence of its left side, in this order.
using Rules = std::vector<std::pair<std::string, std::string>>;

const Rules& transformer_rules() {
  static const Rules rules = {
      {"condition_embedder.time_embedder.linear_1.", "time_embedding.0."},
      {"condition_embedder.time_embedder.linear_2.", "time_embedding.2."},
      {"condition_embedder.text_embedder.linear_1.", "text_embedding.0."},
      {"condition_embedder.text_embedder.linear_2.", "text_embedding.2."},
      {"condition_embedder.time_proj.", "time_projection.1."},
      {".scale_shift_table", ".modulation"},
      {"scale_shift_table", "head.modulation"},
      {"proj_out.", "head.head."},
      {".attn1.", ".self_attn."},
      {".attn2.", ".cross_attn."},
      {".to_q.", ".q."},
      {".to_k.", ".k."},
      {".to_v.", ".v."},
      {".to_out.0.", ".o."},
      {".norm2.", ".norm3."},
      {".ffn.net.0.proj.", ".ffn.0."},
      {".ffn.net.2.", ".ffn.2."},
  };
  return rules;
}

const Rules& text_encoder_rules() {
  static const Rules rules = {
      {"encoder.embed_tokens.", "token_embedding."},
      {"shared.", "token_embedding."},
      {"encoder.final_layer_norm.", "norm."},
      {"encoder.block.", "blocks."},
      {".layer.0.SelfAttention.relative_attention_bias.", ".pos_embedding.embedding."},
      {".layer.0.SelfAttention.", ".attn."},
      {".layer.0.layer_norm.", ".norm1."},
      {".layer.1.layer_norm.", ".norm2."},
      {".layer.1.DenseReluDense.wi_0.", ".ffn.gate.0."},
      {".layer.1.DenseReluDense.wi_1.", ".ffn.fc1."},
      {".layer.1.DenseReluDense.wo.", ".ffn.fc2."},
  };
  return rules;
}

Rules make_vae_rules() {
  Rules rules = {
      {".norm1.", ".residual.0."},
      {".conv1.", ".residual.2."},
      {".norm2.", ".residual.3."},
      {".conv2.", ".residual.6."},
      {".conv_shortcut.", ".shortcut."},
      {"post_quant_conv.", "conv2."},
      {"quant_conv.", "conv1."},
      {".conv_in.", ".conv1."},
      {".norm_out.", ".head.0."},
      {".conv_out.", ".head.2."},
      {".mid_block.resnets.0.", ".middle.0."},
      {".mid_block.attentions.0.", ".middle.1."},
      {".mid_block.resnets.1.", ".middle.2."},
      {".down_blocks.", ".downsamples."},
  };
  // The official decoder numbers its layers through: three residual blocks a stage, then what enlarges.
  for (int stage = 0; stage < 4; ++stage) {
    const auto blocks = fmt::format(".up_blocks.{}.", stage);
    for (int block = 0; block < 3; ++block) {
      rules.push_back(
          {fmt::format("{}resnets.{}.", blocks, block), fmt::format(".upsamples.{}.", 4 * stage + block)});
    }
    rules.push_back({blocks + "upsamplers.0.", fmt::format(".upsamples.{}.", 4 * stage + 3)});
  }
  return rules;
}

const Rules& rules_of(Part part) {
  static const Rules vae_rules = make_vae_rules();
  switch (part) {
    case Part::transformer:
      return transformer_rules();
    case Part::text_encoder:
      return text_encoder_rules();
    case Part::vae:
      break;
  }
  return vae_rules;
}

}  // namespace

std::string official_name(Part part, std::string name) {
  for (const auto& [theirs, official] : rules_of(part)) {
    const auto found = name.find(theirs);
    if (found != std::string::npos) name.replace(found, theirs.size(), official);
  }
  return name;
}

std::string diffusers_name(Part part, std::string name) {
  const auto& rules = rules_of(part);
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
    const auto& [theirs, official] = *rule;
    // A name that does not begin with a dot is a whole one: `norm.`, but not that in `layer_norm.`.
    const auto found =
        official.starts_with('.') || name.starts_with(official) ? name.find(official) : std::string::npos;
    if (found != std::string::npos) name.replace(found, official.size(), theirs);
  }
  return name;
}

}  // namespace wan
