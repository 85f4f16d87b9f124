#include "wan/model/rope.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/view_as_complex.h>
#include <ATen/ops/view_as_real.h>
#include <c10/core/ScalarType.h>

#include <vector>

namespace wan {

namespace {

constexpr double kTheta = 10000;

/// Position times frequency theta^(-2k / channels) along one axis, [positions, channels / 2], float64.
at::Tensor axis_angles(int64_t positions, int64_t channels, const at::Device& device) {
  const auto options = at::TensorOptions(device).dtype(at::kDouble);
  const auto exponents = at::arange(0, channels, 2, options) / static_cast<double>(channels);
  return at::outer(at::arange(positions, options), at::pow(kTheta, -exponents));
}

}  // namespace

RopeTables rope_tables(const Grid& grid, int64_t head_dim, const at::Device& device) {
  const int64_t side = 2 * (head_dim / 6);
  const auto time = axis_angles(grid.frames, head_dim - 2 * side, device);
  const auto height = axis_angles(grid.height, side, device);
  const auto width = axis_angles(grid.width, side, device);

  // The functions are taken of the few angles of each axis, and only the results are spread over the tokens.
  const auto table = [&](at::Tensor (at::Tensor::*function)() const) {
    const auto spread = [&](const at::Tensor& angles, at::IntArrayRef shape) {
      return (angles.*function)()
          .to(at::kFloat)
          .view(shape)
          .expand({grid.frames, grid.height, grid.width, -1});
    };
    return at::cat({spread(time, {grid.frames, 1, 1, -1}), spread(height, {1, grid.height, 1, -1}),
                    spread(width, {1, 1, grid.width, -1})},
                   -1)
        .flatten(0, 2);
  };
  return {.cos = table(&at::Tensor::cos), .sin = table(&at::Tensor::sin)};
}

at::Tensor rotation(const RopeTables& tables) { return at::complex(tables.cos, tables.sin).unsqueeze(1); }

at::Tensor rotate(const at::Tensor& x, const at::Tensor& rotation) {
  const auto real = at::promote_types(x.scalar_type(), at::kFloat);
  const auto pairs = at::view_as_complex(x.to(real).unflatten(-1, {-1, 2}));
  return at::view_as_real(pairs * rotation).flatten(-2);
}

}  // namespace wan
