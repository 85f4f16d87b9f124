#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <cmath>
#include <limits>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/attention.hpp>

#include "cuda.hpp"

using wanpar::Attention;

namespace attention_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Shape {
  int64_t batch, heads, queries, keys, channels, value_channels;
};

/// For the kernels: flash (half types, up to 256 channels), the efficient one (float32, or more channels),
/// operators (channels that do not go into 8, or differ).
const std::vector<Shape> kShapes{
    {2, 3, 37, 37, 32, 32},   {1, 2, 64, 80, 64, 64},   {2, 2, 130, 70, 128, 128},
    {1, 2, 40, 40, 256, 256}, {1, 2, 24, 24, 264, 264}, {1, 2, 33, 33, 20, 20},
    {1, 2, 16, 24, 32, 48},   {1, 1, 1, 1, 8, 8},       {1, 1, 1, 50, 64, 64},
};

enum class Kind { plain, causal, bool_mask, added_mask, grouped, other_scale, transposed, sliced, off_grid };
constexpr Kind kKinds[] = {Kind::plain,      Kind::causal,  Kind::bool_mask,
                           Kind::added_mask, Kind::grouped, Kind::other_scale,
                           Kind::transposed, Kind::sliced,  Kind::off_grid};

at::Tensor drawn(std::vector<int64_t> shape, at::ScalarType dtype, Kind kind) {
  auto options = at::TensorOptions(dtype).device(kCuda);
  auto b = shape[0], heads = shape[1], tokens = shape[2], channels = shape[3];
  if (kind == Kind::transposed) return at::randn({b, heads, channels, tokens}, options).transpose(2, 3);
  if (kind == Kind::sliced)
    return at::randn({b, heads, tokens, 2 * channels}, options).narrow(3, 0, channels);
  if (kind == Kind::off_grid)  // rows begin where no vector of several elements does
    return at::randn({b, heads, tokens, 2 * channels + 1}, options).narrow(3, 1, channels);
  // As a module makes heads: neighbours in memory are the heads of one token.
  return at::randn({b, tokens, heads, channels}, options).transpose(1, 2);
}

Attention made(const Shape& s, at::ScalarType dtype, Kind kind) {
  auto q_heads = kind == Kind::grouped ? 2 * s.heads : s.heads;
  Attention call{drawn({s.batch, q_heads, s.queries, s.channels}, dtype, kind),
                 drawn({s.batch, s.heads, s.keys, s.channels}, dtype, kind),
                 drawn({s.batch, s.heads, s.keys, s.value_channels}, dtype, kind)};
  call.grouped = kind == Kind::grouped;
  call.causal = kind == Kind::causal;
  if (kind == Kind::other_scale) call.scale = 0.3;
  if (kind == Kind::bool_mask)  // the third query may attend to nothing
    call.mask = at::arange(s.queries)
                    .unsqueeze(1)
                    .add(at::arange(s.keys))
                    .remainder(3)
                    .ne(0)
                    .logical_and(at::arange(s.queries).ne(2).unsqueeze(1))
                    .to(kCuda);
  if (kind == Kind::added_mask) call.mask = at::randn({s.queries, s.keys}).to(dtype).to(kCuda);
  return call;
}

struct Definition {
  at::Tensor out, lse;
};

/// By a plain softmax in float64 on the CPU.
Definition by_definition(const Attention& call) {
  auto wide = [](const at::Tensor& t) { return t.cpu().to(at::kDouble); };
  Definition d;
  auto query = wide(call.query), key = wide(call.key), value = wide(call.value);
  auto groups = query.size(1) / key.size(1);
  auto k = key.repeat_interleave(groups, 1), v = value.repeat_interleave(groups, 1);
  auto scale = call.scale.value_or(1 / std::sqrt(double(call.query.size(-1))));
  auto scores = at::matmul(query, k.transpose(-2, -1)) * scale;
  if (call.mask && call.mask->scalar_type() == at::kBool)
    scores = scores.masked_fill(call.mask->cpu().logical_not(), -kInfinity);
  else if (call.mask)
    scores = scores + call.mask->cpu().to(at::kDouble);
  if (call.causal) scores = scores + at::full_like(scores, -kInfinity).triu(1).nan_to_num(0, 0, -kInfinity);
  d.lse = at::logsumexp(scores, -1);
  auto attends = d.lse.ne(-kInfinity).unsqueeze(-1);
  auto weights = at::softmax(scores.masked_fill(attends.logical_not(), 0), -1) * attends;
  d.out = at::matmul(weights, v);
  return d;
}

double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 1e-5 : dtype == at::kHalf ? 2e-3 : 1e-2;
}

/// Queries that attend to nothing have −inf alike; of the others the difference.
double lse_error(const at::Tensor& actual, const at::Tensor& expected) {
  auto a = actual.cpu().to(at::kDouble), e = expected.detach();
  if (!torch::equal(a.eq(-kInfinity), e.eq(-kInfinity))) return kInfinity;
  return (a - e).nan_to_num(0.0).abs().max().item<double>();
}

}  // namespace

TEST_CASE("attention on CUDA and the weights of its rows are those of a plain softmax" *
          doctest::skip(no_cuda())) {
  without_tf32();
  torch::manual_seed(3);
  for (auto dtype : {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble})
    for (auto& shape : kShapes)
      for (auto kind : kKinds) {
        INFO(fmt::format("{}, {} queries, {} keys, {} channels, kind {}", c10::toString(dtype), shape.queries,
                         shape.keys, shape.channels, static_cast<int>(kind)));
        auto call = made(shape, dtype, kind);
        auto expected = by_definition(call);
        try {
          auto got = wanpar::attention_part(call);
          bool same_type = got.out.scalar_type() == dtype;
          CHECK(same_type);
          CHECK(relative_error(got.out, expected.out) <= tolerance(dtype));
          CHECK(lse_error(got.lse(), expected.lse) <= (dtype == at::kDouble ? 1e-12 : 1e-4));
        } catch (const std::exception& error) {
          FAIL_CHECK(std::string(error.what()).substr(0, 300));
        }
      }
}

TEST_CASE("attention on CUDA without a batch, with two, and of nothing" * doctest::skip(no_cuda())) {
  torch::manual_seed(4);
  for (auto dtype : {at::kFloat, at::kBFloat16})
    for (std::vector<int64_t> batch : {std::vector<int64_t>{}, {2}, {2, 3}}) {
      auto shape = batch;
      shape.insert(shape.end(), {2, 9, 16});
      auto x = [&] { return at::randn(shape).to(dtype).to(kCuda); };
      Attention call{x(), x(), x()};
      auto got = wanpar::attention_part(call);
      CHECK(got.out.sizes() == call.query.sizes());
      CHECK(got.lse().dim() == got.out.dim() - 1);
      auto wide = [](const at::Tensor& t) { return t.cpu().to(at::kDouble); };
      auto expected = at::scaled_dot_product_attention(wide(call.query), wide(call.key), wide(call.value));
      CHECK(relative_error(got.out, expected) <= tolerance(dtype));
    }
  auto x = [](int64_t rows) { return at::randn({1, 2, rows, 16}, kCuda); };
  CHECK(wanpar::attention_part({x(0), x(3), x(3)}).out.numel() == 0);
  auto of_no_keys = wanpar::attention_part({x(3), x(0), x(0)});
  CHECK(of_no_keys.out.eq(0).all().item<bool>());
  CHECK(of_no_keys.lse().eq(-kInfinity).all().item<bool>());
}

}  // namespace attention_test
