#pragma once
#include <ATen/ATen.h>
#include <wanpar/module/annotations.hpp>
#include <wanpar/strategy/patch_parallel.hpp>

#include <functional>
#include <vector>

/// A transformer of a video as one is written, and what it gives by the definition of displaced patches, with
/// every rank's patch in one process.
namespace patches {

using at::Tensor;

struct Size {
  int64_t frames, rows, columns;
  int64_t tokens() const { return frames * rows * columns; }
};

/// The attention of layer `layer`, [batch, heads, tokens, channels].
using Attend = std::function<Tensor(int64_t layer, const Tensor& q, const Tensor& k, const Tensor& v)>;

inline constexpr int64_t kWidth = 16, kHeads = 4, kLayers = 3;

/// Video [batch, channels, frames, rows, columns] in, the same out: patches embedded, blocks with positions,
/// a head.
struct Transformer {
  Size size;
  std::vector<Tensor> weights;

  explicit Transformer(Size s, at::ScalarType dtype = at::kFloat) : size(s) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
    auto draw = [&](int64_t in, int64_t out) {
      return at::randn({in, out}, generator, at::kFloat).to(dtype) / std::sqrt(static_cast<double>(in));
    };
    weights.push_back(draw(4, kWidth));
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      weights.push_back(draw(kWidth, 3 * kWidth));
      weights.push_back(draw(kWidth, kWidth));
    }
    weights.push_back(draw(kWidth, 4));
  }

  Tensor operator()(const Tensor& video, const Attend& attend) const {
    auto x = at::matmul(video.flatten(2).transpose(1, 2), weights[0]);
    auto angles = at::arange(size.tokens(), x.options()).unsqueeze(1) *
                  at::arange(1, kWidth + 1, x.options()).unsqueeze(0) / 50;
    x = wanpar::split_sequence(x, 1, {{angles, 0}}, wanpar::TokenGrid{size.frames, size.rows, size.columns});
    x = x + angles.sin();
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      auto qkv = at::matmul(at::layer_norm(x, {kWidth}), weights[1 + 2 * layer])
                     .unflatten(-1, {3, kHeads, kWidth / kHeads})
                     .permute({2, 0, 3, 1, 4});
      auto y = attend(layer, qkv[0] + 0.1 * angles.mean(), qkv[1], qkv[2]);
      x = x + at::matmul(y.transpose(1, 2).flatten(2), weights[2 + 2 * layer]).tanh();
    }
    x = wanpar::gather_sequence(at::matmul(at::layer_norm(x, {kWidth}), weights.back()), 1);
    return x.transpose(1, 2).view_as(video);
  }
  Tensor operator()(const Tensor& video) const {
    return (*this)(video, [](int64_t, const Tensor& q, const Tensor& k, const Tensor& v) {
      return at::scaled_dot_product_attention(q, k, v);
    });
  }
};

/// So many, dealt to ranks as evenly as they can be, the larger shares first: whose each is.
inline Tensor dealt(int64_t count, int64_t ranks) {
  auto of_each = at::empty({count}, at::kLong);
  for (int64_t i = 0, rank = 0, left = count / ranks + (count % ranks > 0); i < count; ++i) {
    if (left == 0) ++rank, left = count / ranks + (rank < count % ranks);
    of_each[i] = rank, --left;
  }
  return of_each;
}

/// Which patch each token of the flattened video is in: frames dealt to `temporal` parts, the rows of each to
/// the others.
inline Tensor owners(Size size, int64_t ranks, int64_t temporal) {
  auto frames = dealt(size.frames, temporal), rows = dealt(size.rows, ranks / temporal);
  auto patch = frames.view({-1, 1, 1}) * (ranks / temporal) + rows.view({1, -1, 1});
  return patch.expand({size.frames, size.rows, size.columns}).reshape({-1});
}
inline Tensor owners(Size size, wanpar::SplitMode mode, int64_t ranks) {
  return owners(size, ranks, mode == wanpar::SplitMode::spatial ? 1 : ranks);
}

/// The row or the frame that each token is in.
inline Tensor places(Size size, wanpar::SplitMode mode) {
  const bool is_spatial = mode == wanpar::SplitMode::spatial;
  auto one = at::arange(is_spatial ? size.rows : size.frames, at::kLong);
  auto shaped = is_spatial ? one.view({1, -1, 1}) : one.view({-1, 1, 1});
  return shaped.expand({size.frames, size.rows, size.columns}).reshape({-1});
}

/// The attention of displaced patches by its definition: rank r's queries meet the keys and values that rank
/// r has made in this step, and those that all others have made in the one before.
class Displaced {
 public:
  Displaced(Tensor owners, int64_t ranks) : owners_(std::move(owners)), ranks_(ranks), before_(kLayers) {}

  bool is_displaced = false;
  /// How what is kept for the next step is rounded.
  std::function<Tensor(const Tensor& of_one_rank)> round = [](const Tensor& x) { return x; };
  /// Which keys a query of this rank sees in displaced steps, [tokens, tokens]; all where left out.
  std::function<Tensor(int64_t rank)> sees;
  /// What it sees of the others is of this step.
  bool is_fresh = false;

  Tensor operator()(int64_t layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    auto out = at::zeros_like(q);
    for (int64_t rank = 0; rank < ranks_; ++rank) {
      const auto mine = owners_.eq(rank);
      auto keys = k, values = v;
      auto seen = at::ones({q.size(2), q.size(2)}, at::kBool);
      if (is_displaced) {
        if (sees) seen = sees(rank);
        auto mixed = [&](const Tensor& now, const Tensor& then) {
          return at::where(mine.unsqueeze(1), now, then.defined() ? then : at::zeros_like(now));
        };
        if (!is_fresh) {
          keys = mixed(k, before_[layer].key), values = mixed(v, before_[layer].value);
          if (!before_[layer].key.defined()) seen = seen.logical_and(mine);
        }
      }
      const auto rows = mine.nonzero().view({-1});
      out.index_copy_(2, rows,
                      at::scaled_dot_product_attention(q.index_select(2, rows), keys, values,
                                                       seen.index_select(0, rows)));
    }
    before_[layer] = {rounded(k), rounded(v)};
    return out;
  }

 private:
  struct Pair {
    Tensor key, value;
  };
  Tensor rounded(const Tensor& x) const {
    auto result = x.clone();
    for (int64_t rank = 0; rank < ranks_; ++rank) {
      auto its = owners_.eq(rank).nonzero().view({-1});
      result.index_copy_(2, its, round(x.index_select(2, its)));
    }
    return result;
  }

  Tensor owners_;
  int64_t ranks_;
  std::vector<Pair> before_;
};

inline Tensor noise(Size size, at::ScalarType dtype = at::kFloat) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(11);
  return at::randn({1, 4, size.frames, size.rows, size.columns}, generator, at::kFloat).to(dtype);
}

inline const Size kSize{3, 5, 4};

/// A transformer of such a video, whose patches are dealt.
inline auto wrapped(wanpar::PatchParallelOptions options, Size size = kSize) {
  return [model = Transformer(size)](const Tensor& video) { return model(video); } |
         wanpar::patch_parallel(std::move(options));
}

}  // namespace patches
