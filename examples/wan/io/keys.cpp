#include "wan/io/keys.hpp"

#include <fmt/format.h>

#include <regex>
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

// The official decoder numbers its layers through: residual blocks, one more of them than in the encoder, and
// what enlarges. In diffusers each level counts for itself.

/// decoder.up_blocks.1.resnets.2.… to decoder.upsamples.6.…
std::string numbered_through(std::string name, int64_t residual_blocks) {
  static const std::regex pattern(R"(\.up_blocks\.(\d{1,3})\.(resnets\.(\d{1,3})|upsamplers\.0)\.)");
  std::smatch found;
  if (!std::regex_search(name, found, pattern)) return name;
  const auto block = found[3].matched ? std::stoll(found[3]) : residual_blocks + 1;
  const auto number = std::stoll(found[1]) * (residual_blocks + 2) + block;
  return fmt::format("{}.upsamples.{}.{}", found.prefix().str(), number, found.suffix().str());
}

std::string numbered_by_level(std::string name, int64_t residual_blocks) {
  static const std::regex pattern(R"(\.upsamples\.(\d{1,6})\.)");
  std::smatch found;
  if (!std::regex_search(name, found, pattern)) return name;
  const auto level = std::stoll(found[1]) / (residual_blocks + 2);
  const auto block = std::stoll(found[1]) % (residual_blocks + 2);
  const auto layer = block > residual_blocks ? "upsamplers.0" : fmt::format("resnets.{}", block);
  return fmt::format("{}.up_blocks.{}.{}.{}", found.prefix().str(), level, layer, found.suffix().str());
}

}  // namespace

std::string official_name(Part part, std::string name, int64_t residual_blocks) {
  if (part == Part::vae) name = numbered_through(std::move(name), residual_blocks);
  for (const auto& [theirs, official] : rules_of(part)) {
    const auto found = name.find(theirs);
    if (found != std::string::npos) name.replace(found, theirs.size(), official);
  }
  return name;
}

std::string diffusers_name(Part part, std::string name, int64_t residual_blocks) {
  if (part == Part::vae) name = numbered_by_level(std::move(name), residual_blocks);
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
