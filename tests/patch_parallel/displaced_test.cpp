// Displaced steps are what their definition says, and synchronous ones what one rank gives.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>

#include "video.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::patch_parallel;
using wanpar::PatchParallelOptions;
using wanpar::SplitMode;

namespace displaced_test {

using namespace patches;

constexpr int kSteps = 12;
constexpr double kTolerance = 1e-5;

/// Each video changes by what the model gives of it.
Tensor stepped(const Tensor& video, const Tensor& given) { return video - 0.2 * given; }

auto plain(Transformer model) {
  return [model = std::move(model)](const Tensor& video) { return model(video); };
}

/// A run over all steps beside its definition; `is_synchronous` says of which steps.
void require_defined(Size size, PatchParallelOptions options, Displaced attention,
                     const std::function<bool(int)>& is_synchronous, at::ScalarType dtype = at::kFloat) {
  c10::InferenceMode no_gradients;
  const Transformer model(size, dtype);
  auto parallel = plain(model) | patch_parallel(options);
  auto expected = noise(size, dtype), actual = expected;
  double furthest = 0;
  for (int step = 0; step < kSteps; ++step) {
    parallel.update_step(step);
    attention.is_displaced = !is_synchronous(step);
    const auto exact = model(expected);
    const auto by_definition = model(expected, std::ref(attention));
    const auto given = parallel(actual);
    require_close(given, by_definition, kTolerance, fmt::format("step {} is as defined", step));
    if (is_synchronous(step)) require_close(by_definition, exact, kTolerance, "a synchronous step is exact");
    furthest = std::max(furthest, (by_definition - exact).abs().max().item<double>());
    expected = stepped(expected, by_definition), actual = stepped(actual, given);
  }
  require(options.group.size() == 1 || is_synchronous(kSteps - 1) || furthest > 1e-3,
          "displaced steps differ from exact ones, so that this test can tell them apart");
}

/// The same with patches of one dimension.
void require_defined(Communicator world, Size size, PatchParallelOptions options,
                     const std::function<bool(int)>& is_synchronous) {
  options.group = world;
  require_defined(size, options, {owners(size, options.split_mode, world.size()), world.size()},
                  is_synchronous);
}

bool is_among_two(int step) { return step < 2; }

const std::vector<Size> kSizes{{3, 5, 4}, {4, 8, 2}, {7, 4, 3}};

TEST_CASE("displaced steps take the others' keys and values of the step before") {
  for (auto mode : {SplitMode::spatial, SplitMode::temporal})
    for (auto& size : kSizes)
      on_worlds(
          [&](Communicator world) {
            if ((mode == SplitMode::spatial ? size.rows : size.frames) < world.size()) return;
            require_defined(world, size, {.split_mode = mode, .warmup_steps = 2},
                            [](int step) { return step < 2; });
          },
          {1, 2, 3, 4});
}

TEST_CASE("every n-th step is synchronous") {
  on_worlds(
      [](Communicator world) {
        require_defined(world, kSizes[0], {.warmup_steps = 1, .sync_frequency = 3},
                        [](int step) { return step % 3 == 0; });
      },
      {2, 3});
}

TEST_CASE("without a first synchronous step a rank sees its own patch in it") {
  on_worlds(
      [](Communicator world) {
        require_defined(world, kSizes[0], {.warmup_steps = 0, .sync_first_step = false},
                        [](int) { return false; });
        require_defined(world, kSizes[0], {.warmup_steps = 0}, [](int step) { return step == 0; });
      },
      {2, 3});
}

TEST_CASE("all steps warm-up are those of one rank") {
  on_worlds(
      [](Communicator world) {
        require_defined(world, kSizes[2], {.split_mode = SplitMode::temporal, .warmup_steps = kSteps},
                        [](int) { return true; });
      },
      {2, 3, 4});
}

TEST_CASE("what waits between steps may be rounded") {
  auto brain = [](const Tensor& x) { return x.to(at::kBFloat16).to(x.dtype()); };
  auto eight_bits = [](const Tensor& x) {
    auto scale = x.abs().amax({2, 3}, true).to(at::kFloat) / 448;
    return ((x.to(at::kFloat) / scale).to(at::kFloat8_e4m3fn).to(at::kFloat) * scale).to(x.dtype());
  };
  on_worlds(
      [&](Communicator world) {
        for (auto dtype : {at::kBFloat16, at::kFloat8_e4m3fn}) {
          Displaced attention(owners(kSizes[0], SplitMode::spatial, world.size()), world.size());
          attention.round = dtype == at::kBFloat16 ? std::function<Tensor(const Tensor&)>(brain) : eight_bits;
          // In float32 its own rounding would decide which way some numbers go here.
          require_defined(kSizes[0], {.group = world, .warmup_steps = 2, .kv_dtype = dtype}, attention,
                          is_among_two, at::kDouble);
        }
      },
      {2, 3, 4});
}

TEST_CASE("frames and rows at once") {
  on_worlds(
      [](Communicator world) {
        for (int64_t parts : {2, 3}) {
          if (world.size() % parts != 0) continue;
          const wanpar::Mesh mesh(world, {{"frames", parts}, {"rows", world.size() / parts}});
          for (auto& size : kSizes)
            require_defined(size,
                            {.group = mesh.flatten({"frames", "rows"}),
                             .split_mode = SplitMode::spatiotemporal,
                             .temporal_parts = parts,
                             .warmup_steps = 2},
                            {owners(size, world.size(), parts), world.size()}, is_among_two);
        }
      },
      {2, 3, 4, 6});
}

TEST_CASE("displaced between groups of ranks, exact within them") {
  on_worlds(
      [](Communicator world) {
        const wanpar::Mesh mesh(world, {{"patch", 2}, {"ulysses", world.size() / 2}});
        const Size size{3, 7, 4};
        // The rows of all ranks of a group are its patch.
        const auto patch = owners(size, SplitMode::spatial, world.size()).div(world.size() / 2, "floor");
        require_defined(size, {.group = mesh["patch"], .ulysses = mesh["ulysses"], .warmup_steps = 2},
                        {patch, 2}, is_among_two);
      },
      {4, 6});
}

/// Queries and keys no further apart than the patch with so many rows or frames on both sides.
Displaced within(Communicator world, Size size, const PatchParallelOptions& options) {
  const auto owner = owners(size, options.split_mode, world.size()), place = places(size, options.split_mode);
  Displaced attention(owner, world.size());
  attention.is_fresh = !options.async_boundary_update;
  attention.sees = [=](int64_t rank) {
    const auto overlap = options.patch_overlap.value_or(0);
    const auto own = place.masked_select(owner.eq(rank));
    auto first = own.min().expand_as(place), last = own.max().expand_as(place);
    if (auto chunk = options.temporal_chunk_size)
      first = place.div(*chunk, "floor") * *chunk, last = first + *chunk - 1;
    return place.ge(first.unsqueeze(1) - overlap).logical_and(place.le(last.unsqueeze(1) + overlap));
  };
  return attention;
}

TEST_CASE("attention that sees the boundary of its neighbours and no more") {
  on_worlds(
      [](Communicator world) {
        for (auto mode : {SplitMode::spatial, SplitMode::temporal})
          for (bool is_async : {true, false})
            for (int64_t overlap : {0, 1}) {
              const Size size{5, 6, 3};
              const PatchParallelOptions options{.group = world,
                                                 .split_mode = mode,
                                                 .warmup_steps = 2,
                                                 .patch_overlap = overlap,
                                                 .async_boundary_update = is_async};
              require_defined(size, options, within(world, size, options), is_among_two);
            }
      },
      {2, 3, 4});
}

TEST_CASE("attention that sees chunks of frames") {
  on_worlds(
      [](Communicator world) {
        const Size size{9, 3, 2};
        for (int64_t chunk : {1, 2, 4, 20})
          for (std::optional<int64_t> overlap : {std::optional<int64_t>(), std::optional<int64_t>(2)}) {
            const PatchParallelOptions options{.group = world,
                                               .split_mode = SplitMode::temporal,
                                               .warmup_steps = 2,
                                               .patch_overlap = overlap,
                                               .temporal_chunk_size = chunk};
            require_defined(size, options, within(world, size, options), is_among_two);
          }
      },
      {2, 3, 4});
}

TEST_CASE("with the same input in every step nothing is stale from the second one on") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size size = kSizes[1];
        const Transformer model(size);
        auto parallel =
            plain(model) | patch_parallel({.group = world, .warmup_steps = 0, .sync_first_step = false});
        const auto video = noise(size), exact = model(video);
        for (int step = 0; step < 4 + kLayers; ++step) {
          parallel.update_step(step);
          const auto given = parallel(video);
          // Nothing was sent before the first step; then each layer is right a step after the one before it.
          if (step >= kLayers) require_close(given, exact, kTolerance, "nothing is stale");
        }
        auto warm = plain(model) | patch_parallel({.group = world, .warmup_steps = 1});
        for (int step = 0; step < 4; ++step) {
          warm.update_step(step);
          require_close(warm(video), exact, kTolerance, "nothing is stale behind a warm-up");
        }
      },
      {2, 3, 4});
}

TEST_CASE("the calls of a step have states of their own") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size size = kSizes[0];
        const Transformer model(size);
        auto both = plain(model) | patch_parallel({.group = world, .warmup_steps = 1});
        auto one = plain(model) | patch_parallel({.group = world, .warmup_steps = 1});
        auto other = plain(model) | patch_parallel({.group = world, .warmup_steps = 1});
        auto a = noise(size), b = a.flip({2}) * 0.5;
        for (int step = 0; step < 5; ++step) {
          for (auto* each : {&both, &one, &other}) each->update_step(step);
          auto first = both(a), second = both(b);
          require_equal(first, one(a), "the first call");
          require_equal(second, other(b), "the second call");
          a = stepped(a, first), b = stepped(b, second);
        }
      },
      {2, 3});
}

TEST_CASE("a step that would be too stale is synchronous on every rank") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size size = kSizes[0];
        const Transformer model(size);
        auto parallel =
            plain(model) | patch_parallel({.group = world, .warmup_steps = 1, .max_staleness = 0.2});
        auto video = noise(size);
        std::vector<std::string> modes;
        for (int step = 0; step < 6; ++step) {
          parallel.update_step(step);
          // Step 2 brings another video, which nobody can know before it is there.
          if (step == 2) video = video.flip({4}) * 3;
          const auto given = parallel(video);
          modes.push_back(parallel.status().mode);
          if (modes.back() != "displaced")
            require_close(given, model(video), kTolerance, "a synchronous step is exact");
        }
        require(modes == std::vector<std::string>{"warm-up", "displaced", "displaced", "synchronous",
                                                  "displaced", "displaced"},
                fmt::format("modes {}", fmt::join(modes, ", ")));
      },
      {2, 3});
}

}  // namespace displaced_test
