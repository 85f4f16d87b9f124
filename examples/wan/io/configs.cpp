#include "wan/io/configs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "wan/io/json.hpp"
#include "wanpar/core/error.hpp"

namespace wan {
namespace {

bool is_set(const nlohmann::json& config, const char* key) {
  return config.contains(key) && !config.at(key).is_null();
}

at::IntArrayRef shape_of(const Weights& weights, const std::string& name, size_t dimensions) {
  const auto found = weights.find(name);
  if (found == weights.end()) {
    const auto where = weights.empty() ? "the checkpoint" : weights.begin()->second.file.string();
    throw wanpar::Error(fmt::format("{}: tensor '{}' is missing", where, name));
  }
  const auto sizes = found->second.tensor.sizes();
  if (sizes.size() == dimensions) return sizes;
  throw wanpar::Error(fmt::format("{}: tensor '{}' should have {} dimensions, but has shape [{}]",
                                  found->second.file.string(), name, dimensions, fmt::join(sizes, ", ")));
}

int64_t count_blocks(const Weights& weights, const char* last_of_block) {
  int64_t blocks = 0;
  while (weights.contains(fmt::format("blocks.{}.{}", blocks, last_of_block))) ++blocks;
  return blocks;
}

/// Attention splits the channels evenly over the heads.
TransformerConfig checked(TransformerConfig config, const std::string& file) {
  if (config.dim < 1 || config.heads < 1 || config.dim % config.heads != 0) {
    throw wanpar::Error(
        fmt::format("{}: {} channels cannot be shared by {} heads", file, config.dim, config.heads));
  }
  return config;
}

}  // namespace

TransformerConfig diffusers_transformer_config(const nlohmann::json& config, const std::string& file) {
  if (is_set(config, "image_dim")) {
    throw wanpar::Error(file + ": 'image_dim' makes this an image-to-video model; only text-to-video runs");
  }
  const auto count = [&](const char* key) { return value_at<int64_t>(config, key, file); };
  return checked({.dim = count("num_attention_heads") * count("attention_head_dim"),
                  .heads = count("num_attention_heads"),
                  .layers = count("num_layers"),
                  .ffn_dim = count("ffn_dim"),
                  .in_channels = count("in_channels"),
                  .out_channels = count("out_channels"),
                  .text_dim = count("text_dim"),
                  .freq_dim = count("freq_dim"),
                  .eps = value_at<double>(config, "eps", file)},
                 file);
}

TransformerConfig official_transformer_config(const nlohmann::json& config, const std::string& file,
                                              const Weights& weights) {
  const auto type = value_at<std::string>(config, "model_type", file);
  if (type != "t2v") {
    throw wanpar::Error(fmt::format("{}: 'model_type' is '{}'; only 't2v', text-to-video, runs", file, type));
  }
  const auto count = [&](const char* key) { return value_at<int64_t>(config, key, file); };
  return checked({.dim = count("dim"),
                  .heads = count("num_heads"),
                  .layers = count("num_layers"),
                  .ffn_dim = count("ffn_dim"),
                  .in_channels = count("in_dim"),
                  .out_channels = count("out_dim"),
                  .text_dim = shape_of(weights, "text_embedding.0.weight", 2)[1],
                  .freq_dim = count("freq_dim"),
                  .text_len = count("text_len"),
                  .eps = value_at<double>(config, "eps", file)},
                 file);
}

VaeConfig diffusers_vae_config(const nlohmann::json& config, const std::string& file) {
  if (config.value("is_residual", false)) {
    throw wanpar::Error(file + ": 'is_residual' makes this the VAE of Wan2.2 5B; only that of Wan2.1 runs");
  }
  return {.base_dim = value_at<int64_t>(config, "base_dim", file),
          .channels = value_at<int64_t>(config, "z_dim", file),
          .multipliers = value_at<std::vector<int64_t>>(config, "dim_mult", file),
          .residual_blocks = value_at<int64_t>(config, "num_res_blocks", file),
          .temporal_downsample = value_at<std::vector<bool>>(config, "temperal_downsample", file),
          .mean = value_at<std::vector<double>>(config, "latents_mean", file),
          .std = value_at<std::vector<double>>(config, "latents_std", file)};
}

VaeConfig official_vae_config(const Weights& weights) {
  VaeConfig config;
  config.base_dim = shape_of(weights, "decoder.conv1.weight", 5)[0] / config.multipliers.back();
  config.channels = shape_of(weights, "conv2.weight", 5)[0];
  return config;
}

TextEncoderConfig text_encoder_config(const Weights& weights) {
  const auto embedding = shape_of(weights, "token_embedding.weight", 2);
  const auto query = shape_of(weights, "blocks.0.attn.q.weight", 2);
  const auto bias = shape_of(weights, "blocks.0.pos_embedding.embedding.weight", 2);
  if (bias[1] == 0 || query[0] % bias[1] != 0) {
    throw wanpar::Error(
        fmt::format("{}: {} channels of 'blocks.0.attn.q.weight' cannot be shared by {} heads",
                    weights.begin()->second.file.string(), query[0], bias[1]));
  }
  return {.dim = embedding[1],
          .heads = bias[1],
          .head_dim = query[0] / bias[1],
          .ffn_dim = shape_of(weights, "blocks.0.ffn.gate.0.weight", 2)[0],
          .layers = count_blocks(weights, "norm2.weight"),
          .vocabulary = embedding[0],
          .buckets = bias[0]};
}

}  // namespace wan
