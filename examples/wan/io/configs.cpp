#include "wan/io/configs.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <limits>

#include "wanpar/core/error.hpp"

namespace wan {
namespace {

// No network is larger in one direction than this; what is beyond it is a slip of the pen.
constexpr Between<int64_t> kWidth = {1, 1 << 20}, kFew = {1, 1024};
constexpr Between<double> kEps = {0, 1};
constexpr const char* kAsBuilt = "nothing else is built";

at::IntArrayRef shape_of(const Weights& weights, const std::string& name, size_t dimensions) {
  const auto found = weights.find(name);
  if (found == weights.end()) {
    const auto where = weights.empty() ? "the checkpoint" : weights.begin()->second.file.string();
    throw wanpar::Error(fmt::format("{}: tensor '{}' is missing", where, name));
  }
  const auto& [tensor, file, own_name] = found->second;
  const auto sizes = tensor.sizes();
  if (sizes.size() == dimensions && tensor.numel() > 0) return sizes;
  throw wanpar::Error(
      fmt::format("{}: tensor '{}' should have {} dimensions and elements, but has shape [{}]", file.string(),
                  own_name, dimensions, fmt::join(sizes, ", ")));
}

int64_t count_blocks(const Weights& weights, const char* last_of_block) {
  int64_t blocks = 0;
  while (weights.contains(fmt::format("blocks.{}.{}", blocks, last_of_block))) ++blocks;
  return blocks;
}

/// A size that a config tells is that of its tensor; one that is missing is told of elsewhere.
void must_fit(const std::string& config, const char* key, int64_t size, const Weights& weights,
              const std::string& name, size_t dimension) {
  const auto found = weights.find(name);
  if (found == weights.end()) return;
  const auto& [tensor, file, own_name] = found->second;
  if (dimension < static_cast<size_t>(tensor.dim()) && tensor.size(static_cast<int64_t>(dimension)) == size)
    return;
  throw wanpar::Error(
      fmt::format("{}: by '{}', dimension {} of tensor '{}' should be {}, but in {} it has shape [{}]",
                  config, key, dimension, own_name, size, file.string(), fmt::join(tensor.sizes(), ", ")));
}

void refuse_quantized(const Settings& config) {
  config.must_not_be("quantization_config",
                     "quantised weights are not built; give the checkpoint as it was before they were");
}

/// Channels and heads that attention and its rotation of pairs can work with.
TransformerConfig checked(TransformerConfig config, const std::string& file) {
  if (config.dim % config.heads != 0 || config.head_dim() % 2 != 0)
    throw wanpar::Error(
        fmt::format("{}: {} channels cannot be shared by {} heads in pairs", file, config.dim, config.heads));
  return config;
}

/// Latents go in and their velocity comes out.
int64_t channels(const Settings& config, const char* in, const char* out) {
  const auto channels = config.count(in, kFew);
  if (channels == 36 && config.count(out, kFew) == 16)
    config.refuse(in, "as many as come out: 36 are those of image-to-video, and only text-to-video is built");
  config.must_be(out, channels, fmt::format("as many as '{}'", in));
  config.count(out, kFew);
  return channels;
}

int64_t even_count(const Settings& config, const char* key, Between<int64_t> bounds) {
  const auto count = config.count(key, bounds);
  if (count % 2 != 0) config.refuse(key, "an even number");
  return count;
}

}  // namespace

TransformerConfig diffusers_transformer_config(const Settings& config) {
  refuse_quantized(config);
  config.must_be("_class_name", "WanTransformer3DModel", "other models are not built");
  for (const auto* key : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"})
    config.must_not_be(key, "that makes an image-to-video model, and only text-to-video is built");
  config.must_be("patch_size", {1, kPatch, kPatch}, kAsBuilt);
  config.must_be("qk_norm", "rms_norm_across_heads", kAsBuilt);
  config.must_be("cross_attn_norm", true, kAsBuilt);
  const auto heads = config.count("num_attention_heads", kFew);
  return checked(
      {.dim = heads * even_count(config, "attention_head_dim", kFew),
       .heads = heads,
       .layers = config.count("num_layers", kFew),
       .ffn_dim = config.count("ffn_dim", kWidth),
       .in_channels = channels(config, "in_channels", "out_channels"),
       .out_channels = config.count("out_channels", kFew),
       .text_dim = config.count("text_dim", kWidth),
       .freq_dim = even_count(config, "freq_dim", kWidth),
       .positions = config.has("rope_max_seq_len") ? config.count("rope_max_seq_len", kWidth) : 1024,
       .eps = config.amount("eps", kEps)},
      config.file());
}

void check_official(const Settings& config) {
  refuse_quantized(config);
  config.must_be("_class_name", "WanModel", "other models are not built");
  const auto type = config.text("model_type");
  if (type == "ti2v")
    config.refuse("model_type", "'t2v': this is Wan2.2 TI2V-5B, and only Wan2.1 text-to-video is built");
  if (type != "t2v") config.refuse("model_type", "'t2v': only text-to-video is built");
}

TransformerConfig official_transformer_config(const Settings& config, const Weights& weights) {
  return checked({.dim = config.count("dim", kWidth),
                  .heads = config.count("num_heads", kFew),
                  .layers = config.count("num_layers", kFew),
                  .ffn_dim = config.count("ffn_dim", kWidth),
                  .in_channels = channels(config, "in_dim", "out_dim"),
                  .out_channels = config.count("out_dim", kFew),
                  .text_dim = shape_of(weights, "text_embedding.0.weight", 2)[1],
                  .freq_dim = even_count(config, "freq_dim", kWidth),
                  .text_len = config.count("text_len", {2, 1 << 14}),
                  .eps = config.amount("eps", kEps)},
                 config.file());
}

VaeConfig diffusers_vae_config(const Settings& config) {
  refuse_quantized(config);
  config.must_be("_class_name", "AutoencoderKLWan", "other VAEs are not built");
  const std::string wan22 = "this is the VAE of Wan2.2 5B, and only that of Wan2.1 is built";
  config.must_be("is_residual", false, wan22);
  config.must_not_be("patch_size", wan22);
  for (const auto* colours : {"in_channels", "out_channels"}) config.must_be(colours, 3, kAsBuilt);

  const auto width = config.count("base_dim", {2, 1 << 14});
  config.must_be("decoder_base_dim", width, "as 'base_dim'");
  const auto channels = config.count("z_dim", kFew);
  const auto latents = static_cast<size_t>(channels);
  constexpr auto kLargest = static_cast<double>(std::numeric_limits<float>::max());
  const auto multipliers = config.counts("dim_mult", {1, 6}, kFew);
  const auto stages = multipliers.size() - 1;
  for (size_t level = 1; level <= stages; ++level)
    if (width * multipliers[level] % 2 != 0)
      config.refuse("dim_mult", "such that each level's channels can be halved");
  return {.base_dim = width,
          .channels = channels,
          .multipliers = multipliers,
          .residual_blocks = config.count("num_res_blocks", {1, 64}),
          .temporal_downsample = config.switches("temperal_downsample", {stages, stages}),
          .mean = config.amounts("latents_mean", {latents, latents}, {-kLargest, kLargest}),
          .std = config.amounts("latents_std", {latents, latents}, {1e-30, kLargest})};
}

VaeConfig official_vae_config(const Weights& weights) {
  VaeConfig config;
  const auto deepest = shape_of(weights, "decoder.conv1.weight", 5)[0];
  config.channels = shape_of(weights, "conv2.weight", 5)[0];
  config.base_dim = deepest / config.multipliers.back();
  const auto file = weights.begin()->second.file.string();
  if (config.channels != static_cast<int64_t>(config.mean.size()))
    throw wanpar::Error(
        fmt::format("{}: this VAE makes latents of {} channels, not the {} of Wan2.1; that of "
                    "Wan2.2 5B has 48, and is not built",
                    file, config.channels, config.mean.size()));
  if (config.base_dim < 2 || config.base_dim * config.multipliers.back() != deepest)
    throw wanpar::Error(fmt::format("{}: the {} channels of 'decoder.conv1.weight' are not {} times a width",
                                    file, deepest, config.multipliers.back()));
  return config;
}

void check_sizes(const TransformerConfig& config, const Settings& settings, const Weights& weights) {
  const auto& file = settings.file();
  const auto key = [&](const char* diffusers, const char* official) {
    return settings.has(official) ? official : diffusers;
  };
  must_fit(file, key("num_attention_heads", "dim"), config.dim, weights, "patch_embedding.weight", 0);
  must_fit(file, key("in_channels", "in_dim"), config.in_channels, weights, "patch_embedding.weight", 1);
  must_fit(file, "ffn_dim", config.ffn_dim, weights, "blocks.0.ffn.0.weight", 0);
  must_fit(file, "text_dim", config.text_dim, weights, "text_embedding.0.weight", 1);
  must_fit(file, "freq_dim", config.freq_dim, weights, "time_embedding.0.weight", 1);
  must_fit(file, key("out_channels", "out_dim"), config.out_channels * kPatch * kPatch, weights,
           "head.head.weight", 0);
  const auto blocks = count_blocks(weights, "modulation");
  if (blocks != 0 && blocks != config.layers)
    throw wanpar::Error(fmt::format("{}: 'num_layers' is {}, but {} has {} blocks", file, config.layers,
                                    weights.begin()->second.file.string(), blocks));
}

void check_sizes(const VaeConfig& config, const std::string& file, const Weights& weights) {
  must_fit(file, "z_dim", config.channels, weights, "decoder.conv1.weight", 1);
  const auto levels = static_cast<int64_t>(config.multipliers.size());
  for (int64_t level = 0; level < levels; ++level) {
    const auto first = (levels - 1 - level) * (config.residual_blocks + 2);
    must_fit(file, level == 0 ? "base_dim" : "dim_mult", config.base_dim * config.multipliers[level], weights,
             fmt::format("decoder.upsamples.{}.residual.2.weight", first), 0);
  }
}

TextEncoderConfig text_encoder_config(const Weights& weights) {
  const auto embedding = shape_of(weights, "token_embedding.weight", 2);
  const auto query = shape_of(weights, "blocks.0.attn.q.weight", 2);
  const auto bias = shape_of(weights, "blocks.0.pos_embedding.embedding.weight", 2);
  const auto& file = weights.begin()->second.file;
  if (query[0] % bias[1] != 0)
    throw wanpar::Error(fmt::format("{}: the {} channels of queries cannot be shared by {} heads",
                                    file.string(), query[0], bias[1]));
  TextEncoderConfig config = {.dim = embedding[1],
                              .heads = bias[1],
                              .head_dim = query[0] / bias[1],
                              .ffn_dim = shape_of(weights, "blocks.0.ffn.gate.0.weight", 2)[0],
                              .layers = count_blocks(weights, "norm2.weight"),
                              .vocabulary = embedding[0],
                              .buckets = bias[0]};
  // Half of the buckets are for each side, and half of those for distances that are counted one by one.
  if (config.buckets < 4 || config.buckets % 4 != 0 || config.buckets / 4 >= config.max_distance)
    throw wanpar::Error(fmt::format("{}: positions have {} buckets, which should be a multiple of 4 below {}",
                                    file.string(), config.buckets, 4 * config.max_distance));
  return config;
}

TextEncoderConfig diffusers_text_encoder_config(const Settings& config, const Weights& weights) {
  refuse_quantized(config);
  config.must_be("model_type", "umt5", "other text encoders are not built");
  config.must_be("feed_forward_proj", "gated-gelu", kAsBuilt);
  auto found = text_encoder_config(weights);
  const auto as_tensors = [&](const char* key, int64_t count) {
    config.must_be(key, count, "as many as its tensors have");
  };
  as_tensors("vocab_size", found.vocabulary);
  as_tensors("d_model", found.dim);
  as_tensors("d_kv", found.head_dim);
  as_tensors("d_ff", found.ffn_dim);
  as_tensors("num_heads", found.heads);
  as_tensors("num_layers", found.layers);
  as_tensors("relative_attention_num_buckets", found.buckets);
  if (config.has("relative_attention_max_distance"))
    found.max_distance =
        config.count("relative_attention_max_distance", {found.buckets / 4 + 1, kWidth.greatest});
  if (config.has("layer_norm_epsilon")) found.eps = config.amount("layer_norm_epsilon", kEps);
  return found;
}

}  // namespace wan
