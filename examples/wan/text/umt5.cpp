#include "wan/text/umt5.hpp"

#include "wanpar/module/annotations.hpp"

namespace wan {

Umt5Impl::Umt5Impl(TextEncoderConfig config)
    : token_embedding(register_module("token_embedding", Table(config.vocabulary, config.dim))),
      blocks(register_module("blocks", torch::nn::ModuleList())),
      norm(register_module("norm", RmsNorm(config.dim, config.eps))),
      config_(config) {
  for (int64_t i = 0; i < config_.layers; ++i) blocks->push_back(Umt5Block(config_));
}

at::Tensor Umt5Impl::forward(at::Tensor ids, at::Tensor mask) {
  const auto buckets = relative_position_buckets(ids.size(1), config_, ids.device());
  const auto is_padding = mask.eq(0).unsqueeze(1).unsqueeze(1);
  return wanpar::run_blocks<Umt5BlockImpl>(blocks, token_embedding(ids), buckets, is_padding,
                                           [&](const at::Tensor& x) { return norm(x); });
}

}  // namespace wan
