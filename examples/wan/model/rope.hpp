#pragma once
#include <ATen/core/Tensor.h>

namespace wan {

/// The tokens of a video: how many along each axis. Tokens lie with the width fastest and time slowest.
struct Grid {
  int64_t frames, height, width;

  int64_t tokens() const { return frames * height * width; }
};

/// Cosines and sines of the rotary position angles, each [tokens, head_dim / 2], float32.
struct RopeTables {
  at::Tensor cos, sin;
};

/// The tables for a grid. A head's angles are shared out among time, height and width; height and width take
/// 2 * (head_dim / 6) channels each and time the rest. Computed in float64.
RopeTables rope_tables(const Grid& grid, int64_t head_dim, const at::Device& device);

/// The tables as complex numbers cos + i sin, [tokens, 1, head_dim / 2]: what rotate() multiplies with.
at::Tensor rotation(const RopeTables& tables);

/// Rotates adjacent pairs of channels of x [batch, tokens, heads, head_dim] by the angles of their token, in
/// float32 at least.
at::Tensor rotate(const at::Tensor& x, const at::Tensor& rotation);

}  // namespace wan
