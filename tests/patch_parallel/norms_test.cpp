// Displaced steps of convolutions and of norms over the whole video are what their definition says.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>

#include "video.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::NormMode;
using wanpar::patch_parallel;
using wanpar::PatchParallelOptions;
using wanpar::SplitMode;

namespace norms_test {

using namespace patches;

constexpr int kSteps = 12;
constexpr int64_t kGroups = 2, kChannels = 4;
constexpr double kEpsilon = 1e-5;

/// The layer's convolution, and its norm.
struct Operators {
  std::function<Tensor(size_t layer, const Tensor& x, const Tensor& weight)> convolution;
  std::function<Tensor(size_t layer, const Tensor& x)> norm;
};

Tensor convolved(const Tensor& x, const Tensor& weight) { return at::conv3d(x, weight, {}, 1, 1); }

/// Of one rank.
Operators plain() {
  return {[](size_t, const Tensor& x, const Tensor& weight) { return convolved(x, weight); },
          [](size_t, const Tensor& x) { return at::group_norm(x, kGroups, {}, {}, kEpsilon); }};
}

/// Residual layers of convolution, norm, activation.
struct Residual {
  std::vector<Tensor> weights;

  Residual() {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
    for (int layer = 0; layer < 3; ++layer)
      weights.push_back(at::randn({kChannels, kChannels, 3, 3, 3}, generator) / 8);
  }
  Tensor operator()(Tensor x, const Operators& operators) const {
    for (size_t layer = 0; layer < weights.size(); ++layer)
      x = x + at::silu(operators.norm(layer, operators.convolution(layer, x, weights[layer])));
    return x;
  }
};

/// A video's patches along `dim`, with what each had in the step before.
class Definition {
 public:
  Definition(PatchParallelOptions options, Size size, int64_t ranks)
      : options_(std::move(options)), dim_(options_.split_mode == SplitMode::spatial ? 3 : 2) {
    const auto of_each = dealt(dim_ == 3 ? size.rows : size.frames, ranks);
    for (int64_t rank = 0; rank < ranks; ++rank) rows_.push_back(of_each.eq(rank).nonzero().view({-1}));
  }

  bool is_displaced = false;

  Operators operators() {
    return {
        [this](size_t layer, const Tensor& x, const Tensor& weight) { return convolution(layer, x, weight); },
        [this](size_t layer, const Tensor& x) { return norm(layer, x); }};
  }

 private:
  Tensor own(const Tensor& x, size_t rank) const { return x.index_select(dim_, rows_[rank]); }

  Tensor convolution(size_t layer, const Tensor& x, const Tensor& weight) {
    auto out = convolved(x, weight);
    auto& before = inputs_[layer];
    if (is_displaced && options_.async_boundary_update)
      for (size_t rank = 0; rank < rows_.size(); ++rank) {
        auto seen = before.defined() ? before.clone() : at::zeros_like(x);
        seen.index_copy_(dim_, rows_[rank], own(x, rank));
        out.index_copy_(dim_, rows_[rank], own(convolved(seen, weight), rank));
      }
    before = x;
    return out;
  }

  /// Means of elements and of their squares, [2, groups].
  static Tensor means(const Tensor& x) {
    const auto groups = x.reshape({kGroups, -1});
    return at::stack({groups.mean(1), groups.square().mean(1)});
  }

  Tensor norm(size_t layer, const Tensor& x) {
    auto out = at::group_norm(x, kGroups, {}, {}, kEpsilon);
    auto& before = normed_[layer];
    if (is_displaced && options_.norm_mode != NormMode::synchronous)
      for (size_t rank = 0; rank < rows_.size(); ++rank) {
        const auto part = own(x, rank);
        auto all = means(part), variance = all[1] - all[0].square();
        if (before.defined() && options_.norm_mode == NormMode::stale) {
          auto mixed = before.clone();
          mixed.index_copy_(dim_, rows_[rank], part);
          all = means(mixed), variance = all[1] - all[0].square();
        } else if (before.defined()) {
          all = means(before) + means(part) - means(own(before, rank));
          variance = at::where(all[1] < all[0].square(), variance, all[1] - all[0].square());
        }
        auto normal =
            (part.reshape({kGroups, -1}) - all[0].unsqueeze(1)) / (variance + kEpsilon).sqrt().unsqueeze(1);
        out.index_copy_(dim_, rows_[rank], normal.view_as(part));
      }
    before = x;
    return out;
  }

  PatchParallelOptions options_;
  int64_t dim_;
  std::vector<Tensor> rows_;
  std::vector<Tensor> inputs_ = std::vector<Tensor>(3), normed_ = std::vector<Tensor>(3);
};

void require_defined(Communicator world, Size size, PatchParallelOptions options, int warm) {
  c10::InferenceMode no_gradients;
  const Residual model;
  Definition definition(options, size, world.size());
  options.group = world, options.split = {{.arg = 0}};
  auto parallel = [&](const Tensor& x) { return model(x, plain()); } | patch_parallel(options);
  auto expected = noise(size), actual = expected;
  double furthest = 0;
  for (int step = 0; step < kSteps; ++step) {
    parallel.update_step(step);
    definition.is_displaced = step >= warm;
    const auto exact = model(expected, plain());
    const auto by_definition = model(expected, definition.operators()), given = parallel(actual);
    require_close(given, by_definition, 1e-5, fmt::format("step {} is as defined", step));
    if (step < warm) require_close(by_definition, exact, 1e-5, "a synchronous step is exact");
    furthest = std::max(furthest, (by_definition - exact).abs().max().item<double>());
    expected = expected - 0.2 * by_definition, actual = actual - 0.2 * given;
  }
  const bool is_all_fresh = !options.async_boundary_update && options.norm_mode == NormMode::synchronous;
  require(is_all_fresh ? furthest < 1e-5 : furthest > 1e-4,
          fmt::format("displaced steps are {} off, so that this test can tell them apart", furthest));
}

TEST_CASE("convolutions see their neighbours as they were, norms as they are told to") {
  on_worlds(
      [](Communicator world) {
        for (auto mode : {SplitMode::spatial, SplitMode::temporal})
          for (auto norm : {NormMode::synchronous, NormMode::stale, NormMode::corrected})
            for (bool is_async : {true, false})
              require_defined(world, {5, 7, 4},
                              {.split_mode = mode,
                               .warmup_steps = 2,
                               .async_boundary_update = is_async,
                               .norm_mode = norm},
                              2);
      },
      {2, 3, 4});
}

TEST_CASE("without a first synchronous step neighbours and statistics are a patch's own") {
  on_worlds(
      [](Communicator world) {
        for (auto norm : {NormMode::stale, NormMode::corrected})
          require_defined(world, {3, 7, 4}, {.warmup_steps = 0, .sync_first_step = false, .norm_mode = norm},
                          0);
      },
      {2, 3});
}

TEST_CASE("a corrected variance that would be negative is the patch's own") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size size{1, 6, 4};
        auto module = [](const Tensor& x) { return at::group_norm(x, kGroups, {}, {}, kEpsilon); };
        auto parallel = module | patch_parallel({.group = world, .split = {{.arg = 0}}, .warmup_steps = 1});
        const auto before = noise(size) + 10, now = noise(size) * 0.1;
        Definition definition({.warmup_steps = 1}, size, world.size());
        auto by_definition = definition.operators().norm;
        parallel.update_step(0);
        require_close(parallel(before), by_definition(0, before), 1e-4, "before");
        parallel.update_step(1);
        definition.is_displaced = true;
        require_close(parallel(now), by_definition(0, now), 1e-4, "now");
      },
      {2, 3});
}

TEST_CASE("attention that waits for its boundary keeps nothing, beside norms that do") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size size{2, 2 * world.size(), 3};
        auto module = [](const Tensor& x) {
          const auto tokens = x.flatten(2).transpose(1, 2).unsqueeze(1);
          const auto y = at::scaled_dot_product_attention(tokens, tokens, tokens);
          return at::group_norm(y.squeeze(1).transpose(1, 2).view_as(x), kGroups, {}, {}, kEpsilon);
        };
        auto parallel = module | patch_parallel({.group = world,
                                                 .split = {{.arg = 0}},
                                                 .warmup_steps = 1,
                                                 .patch_overlap = 2,
                                                 .async_boundary_update = false});
        const auto video = noise(size);
        for (int step = 0; step < 4; ++step) {
          parallel.update_step(step);
          // Each of two patches sees the whole of the other.
          if (const auto given = parallel(video); step == 0 || world.size() == 2)
            require_close(given, module(video), 1e-5, "nothing is stale");
          const auto buffers = parallel.status().buffers;
          require(buffers.size() == 1 && buffers[0].what == "moments", "moments are all that is kept");
        }
      },
      {2, 3});
}

}  // namespace norms_test
