#pragma once
#include <cstdint>
#include <vector>

namespace wan {

/// Latents that make one token, along height and width; along time it is one.
constexpr int64_t kPatch = 2;

/// Shape of the diffusion transformer, as its config.json and its tensors tell it.
struct TransformerConfig {
  int64_t dim = 1536;
  int64_t heads = 12;
  int64_t layers = 30;
  int64_t ffn_dim = 8960;
  int64_t in_channels = 16;
  int64_t out_channels = 16;
  int64_t text_dim = 4096;
  int64_t freq_dim = 256;
  int64_t text_len = 512;
  int64_t positions = 1024;  ///< along each axis of the tokens' grid
  double eps = 1e-6;

  int64_t head_dim() const { return dim / heads; }
};

/// Shape of the umT5 encoder.
struct TextEncoderConfig {
  int64_t dim = 4096;
  int64_t heads = 64;
  int64_t head_dim = 64;
  int64_t ffn_dim = 10240;
  int64_t layers = 24;
  int64_t vocabulary = 256384;
  int64_t buckets = 32;
  int64_t max_distance = 128;
  double eps = 1e-6;
};

/// Shape of the causal 3D VAE, and the statistics that scale its latents.
struct VaeConfig {
  int64_t base_dim = 96;
  int64_t channels = 16;
  std::vector<int64_t> multipliers = {1, 2, 4, 4};
  int64_t residual_blocks = 2;
  std::vector<bool> temporal_downsample = {false, true, true};
  std::vector<double> mean = {-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                              0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
  std::vector<double> std = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                             3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};
};

}  // namespace wan
