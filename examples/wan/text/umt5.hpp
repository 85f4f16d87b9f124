#pragma once
#include <torch/nn.h>

#include "wan/config.hpp"
#include "wan/text/umt5_layers.hpp"

namespace wan {

/// The encoder of umT5, its parameters under the official Wan names. Unlike in T5, every layer has a relative
/// position bias of its own. The weights decide the dtype: float32 or bfloat16, for float16 overflows.
class Umt5Impl : public torch::nn::Module {
 public:
  explicit Umt5Impl(TextEncoderConfig config);

  /// Returns the encoding [batch, tokens, dim] of `ids` [batch, tokens]. No token attends to those where
  /// `mask` [batch, tokens] is 0, and their own rows mean nothing; each sample needs one that is not.
  at::Tensor forward(at::Tensor ids, at::Tensor mask);

  const TextEncoderConfig& config() const { return config_; }

  Table token_embedding;
  torch::nn::ModuleList blocks;
  RmsNorm norm;

 private:
  TextEncoderConfig config_;
};
TORCH_MODULE(Umt5);

}  // namespace wan
