#include <ATen/ATen.h>

#include <cmath>

#include "wan/demo/random.hpp"
#include "wan/demo/rules.hpp"
#include "wan/demo/weights.hpp"
#include "wan/model/transformer.hpp"

namespace wan::demo {
namespace {

constexpr double kDecay = 3.0;     // how fast what is not smooth fades over the whole schedule
constexpr double kGrowth = 2.0;    // the blur that is taken away, as a multiple of the input
constexpr double kNearness = 8.0;  // the larger, the nearer are the tokens that the blur reaches

/// Columns at right angles, so that the head can undo what the patch embedding did: [dim, patch values].
at::Tensor patch_basis(int64_t dim, int64_t values) {
  return std::get<0>(at::linalg_qr(normal("patch_embedding.weight", {dim, values})));
}

/// LayerNorm scales a token to length sqrt(dim); a patch of normal noise has length sqrt(values).
double patch_scale(int64_t dim, int64_t values) {
  return std::sqrt(static_cast<double>(dim) / static_cast<double>(values));
}

at::Tensor patch_weight(const std::string&, at::IntArrayRef shape) {
  const auto dim = shape[0], values = c10::multiply_integers(shape.slice(1));
  return (patch_basis(dim, values) * patch_scale(dim, values)).reshape(shape);
}

/// The inverse of the patch embedding; the head's values have the channel last, the embedding's have it
/// first.
at::Tensor head_weight(const std::string&, at::IntArrayRef shape) {
  const auto values = shape[0], dim = shape[1];
  const auto channels_first = patch_basis(dim, values).t().reshape({values / 4, 4, dim});
  return channels_first.transpose(0, 1).reshape(shape) * (kDecay / patch_scale(dim, values));
}

/// Queries and keys are the same constant, whose rotated copies agree the better the nearer two tokens are.
/// Of RoPE's waves only the second of each axis counts, whose length is some tens of tokens.
Draw nearness(int64_t head_dim) {
  return [=](const std::string&, at::IntArrayRef shape) {
    const auto spatial = head_dim / 6 * 2, temporal = head_dim - 2 * spatial;
    const auto heads = at::zeros({shape[0] / head_dim, head_dim});
    for (const auto axis : {int64_t{0}, temporal, temporal + spatial}) heads.select(1, axis + 2).fill_(1);
    return heads.reshape(shape);
  };
}

/// Rows: shift, scale and gate of the attention, shift, scale and gate of the feed-forward part.
at::Tensor gates(const std::string&, at::IntArrayRef shape) {
  const auto rows = at::zeros(shape);
  rows.select(1, 2).fill_(1);
  rows.select(1, 5).fill_(1);
  return rows;
}

}  // namespace

std::map<std::string, at::Tensor> transformer_weights(const TransformerConfig& config) {
  const auto near = nearness(config.head_dim());
  return draw_all(*Transformer(config), {
                                            {"patch_embedding.weight", patch_weight},
                                            {"head.head.weight", head_weight},
                                            {"head.modulation", constant(0)},
                                            {".modulation", gates},
                                            {"time_projection.1.weight", spread(0.1)},
                                            {"self_attn.q.weight", constant(0)},
                                            {"self_attn.k.weight", constant(0)},
                                            {"self_attn.q.bias", near},
                                            {"self_attn.k.bias", near},
                                            {"self_attn.norm_", constant(kNearness)},
                                            {"self_attn.v.weight", identity(1)},
                                            {"blocks.0.self_attn.o.weight", identity(-kGrowth)},
                                            {"self_attn.o.weight", spread(0.3)},
                                            {"cross_attn.o.weight", spread(0.5)},
                                            {"cross_attn.norm_", constant(1)},
                                            {"norm3.weight", constant(1)},
                                            {"ffn.2.weight", spread(0.3)},
                                            {".bias", constant(0)},
                                            {".weight", spread(1)},
                                        });
}

}  // namespace wan::demo
