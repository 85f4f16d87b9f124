#include "wan/model/transformer.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <fmt/ranges.h>

#include <utility>

#include "wanpar/core/error.hpp"
#include "wanpar/module/annotations.hpp"

namespace wan {

namespace {

/// [cos, sin] of timestep * 10000^(-j / half), j = 0..half-1, [batch, dim], computed in float64.
at::Tensor sinusoid(const at::Tensor& timestep, int64_t dim) {
  const auto half = static_cast<double>(dim) / 2;
  const auto exponents = at::arange(dim / 2, timestep.options().dtype(at::kDouble)) / half;
  const auto angles = at::outer(timestep.to(at::kDouble), at::pow(10000.0, -exponents));
  return at::cat({angles.cos(), angles.sin()}, 1);
}

/// Puts patches [batch, tokens, 2 * 2 * channels], channels fastest, back to their places.
at::Tensor unpatchify(const at::Tensor& patches, const Grid& grid) {
  return patches.view({patches.size(0), grid.frames, grid.height, grid.width, kPatch, kPatch, -1})
      .permute({0, 6, 1, 2, 4, 3, 5})
      .flatten(5, 6)
      .flatten(3, 4);
}

}  // namespace

PatchEmbeddingImpl::PatchEmbeddingImpl(int64_t channels, int64_t dim)
    : weight(register_parameter("weight", at::empty({dim, channels, 1, kPatch, kPatch}), false)),
      bias(register_parameter("bias", at::empty({dim}), false)) {}

at::Tensor PatchEmbeddingImpl::forward(const at::Tensor& latents) {
  const auto patches = latents.to(weight.scalar_type())
                           .unflatten(4, {-1, kPatch})
                           .unflatten(3, {-1, kPatch})      // [batch, channels, T, h, 2, w, 2]
                           .permute({0, 2, 3, 5, 1, 4, 6})  // [batch, T, h, w, channels, 2, 2]
                           .flatten(4)
                           .flatten(1, 3);
  return at::linear(patches, weight.flatten(1), bias);
}

HeadImpl::HeadImpl(const TransformerConfig& config)
    : modulation(register_parameter("modulation", at::empty({1, 2, config.dim}), false)),
      head(register_module("head", Linear(config.dim, kPatch * kPatch * config.out_channels))),
      eps_(config.eps) {}

at::Tensor HeadImpl::forward(const at::Tensor& x, const at::Tensor& time) {
  const auto m = (modulation + time.unsqueeze(1)).chunk(2, 1);
  return head(modulated_norm(x, m[0], m[1], eps_));
}

TransformerImpl::TransformerImpl(TransformerConfig config)
    : patch_embedding(register_module("patch_embedding", PatchEmbedding(config.in_channels, config.dim))),
      text_embedding(
          register_module("text_embedding", torch::nn::Sequential(Linear(config.text_dim, config.dim), Gelu(),
                                                                  Linear(config.dim, config.dim)))),
      time_embedding(register_module(
          "time_embedding", torch::nn::Sequential(Linear(config.freq_dim, config.dim), torch::nn::SiLU(),
                                                  Linear(config.dim, config.dim)))),
      time_projection(register_module(
          "time_projection", torch::nn::Sequential(torch::nn::SiLU(), Linear(config.dim, 6 * config.dim)))),
      blocks(register_module("blocks", torch::nn::ModuleList())),
      head(register_module("head", Head(config))),
      config_(std::move(config)) {
  for (int64_t i = 0; i < config_.layers; ++i) blocks->push_back(Block(config_));
}

at::Tensor TransformerImpl::forward(at::Tensor latents, at::Tensor timestep, at::Tensor text) {
  check(latents, timestep, text);
  const Grid grid{latents.size(2), latents.size(3) / kPatch, latents.size(4) / kPatch};

  const auto time = time_embedding->forward(sinusoid(timestep, config_.freq_dim));
  const auto block_time = time_projection->forward(time).unflatten(1, {6, -1});
  const auto context = text_embedding->forward(text);
  auto tables = rope_tables(grid, config_.head_dim(), latents.device());

  auto x = patch_embedding(latents).to(block_time.scalar_type());
  x = wanpar::split_sequence(x, 1, {{tables.cos, 0}, {tables.sin, 0}},
                             wanpar::TokenGrid{grid.frames, grid.height, grid.width});
  const auto angles = rotation(tables);
  return wanpar::run_blocks<BlockImpl>(blocks, x, block_time, context, angles, [&](const at::Tensor& y) {
    return unpatchify(wanpar::gather_sequence(head(y, time), 1), grid);
  });
}

void TransformerImpl::check(const at::Tensor& latents, const at::Tensor& timestep,
                            const at::Tensor& text) const {
  if (latents.dim() != 5 || latents.size(1) != config_.in_channels || latents.size(3) % kPatch != 0 ||
      latents.size(4) % kPatch != 0)
    throw wanpar::Error(fmt::format(
        "transformer: latents are [{}] and should be [batch, {}, frames, even height, even width]; choose a "
        "video size that 16 divides",
        fmt::join(latents.sizes(), ", "), config_.in_channels));
  if (timestep.dim() != 1 || timestep.size(0) != latents.size(0))
    throw wanpar::Error(fmt::format("transformer: timestep is [{}] and should be [{}], one for each sample",
                                    fmt::join(timestep.sizes(), ", "), latents.size(0)));
  if (text.dim() != 3 || text.size(0) != latents.size(0) || text.size(1) != config_.text_len ||
      text.size(2) != config_.text_dim)
    throw wanpar::Error(
        fmt::format("transformer: text is [{}] and should be [{}, {}, {}]; pad each prompt's rows with zeros",
                    fmt::join(text.sizes(), ", "), latents.size(0), config_.text_len, config_.text_dim));
}

}  // namespace wan
