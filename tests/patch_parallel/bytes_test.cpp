// What a step sends and holds is what the formula says, and one that is refused has sent nothing.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/error.hpp>
#include <wanpar/transport/recording.hpp>

#include "video.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::patch_parallel;
using wanpar::PatchParallelOptions;
using wanpar::SplitMode;

namespace bytes_test {

using namespace patches;

/// All ranks' agreement on step, call and mode.
int64_t agreement(const Communicator& world) { return 24 * world.size() * (world.size() - 1); }

/// What else the transformer sends: one number of each layer, summed over the ranks, and its result.
int64_t of_the_model(const Communicator& world, Size size) {
  return (world.size() - 1) * (kLayers * 2 * 4 + size.tokens() * 4 * 4);
}

/// Of all ranks together, which are threads of this process.
int64_t bytes_of(Communicator world, wanpar::Recording& recording, const std::function<void()>& action) {
  world.barrier();
  if (world.rank() == 0) recording.clear();
  world.barrier();
  action();
  world.barrier();
  return recording.total().bytes;
}

int64_t sum(Communicator world, int64_t mine) {
  return world.all_reduce(at::full({1}, mine, at::kLong)).get().item<int64_t>();
}

TEST_CASE("bytes sent and held are those of the formula") {
  wanpar::Recording recording;
  for (auto dtype :
       {std::optional<at::ScalarType>(), std::optional(at::kBFloat16), std::optional(at::kFloat8_e4m3fn)})
    on_worlds(
        [&](Communicator world) {
          c10::InferenceMode no_gradients;
          const int64_t n = world.size(), element = dtype ? c10::elementSize(*dtype) : 4;
          auto model = wrapped({.group = recording(world), .warmup_steps = 1, .kv_dtype = dtype});
          const auto video = noise(kSize);
          for (int step : {0, 1, 2}) model.update_step(step), model(video);
          model.update_step(3);
          const auto before = model.status().bytes_sent;
          const auto sent = bytes_of(world, recording, [&] { model(video); });
          // Keys and values of every layer, and a scale for each of their heads.
          const int64_t scales = dtype == at::kFloat8_e4m3fn ? 4 * kHeads : 0;
          const auto all = kLayers * 2 * (element * kSize.tokens() * kWidth + n * scales);
          require(model.status().bytes_held == all,
                  fmt::format("{} bytes are held, {} by the formula", model.status().bytes_held, all));
          const auto formula = (n - 1) * all + of_the_model(world, kSize) + agreement(world);
          require(sent == formula, fmt::format("{} bytes were sent, {} by the formula", sent, formula));
          const auto said = sum(world, model.status().bytes_sent - before);
          require(said == (n - 1) * all, fmt::format("{} bytes are said to be sent", said));
        },
        {2, 3});
}

TEST_CASE("with an overlap the rows at the boundaries are all that is sent and held") {
  wanpar::Recording recording;
  on_worlds(
      [&](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size size{3, 6, 4};
        const int64_t n = world.size(), overlap = 2;
        auto model = wrapped({.group = recording(world), .warmup_steps = 1, .patch_overlap = overlap}, size);
        const auto video = noise(size);
        for (int step : {0, 1, 2}) model.update_step(step), model(video);
        model.update_step(3);
        const auto sent = bytes_of(world, recording, [&] { model(video); });
        // Keys and values of every layer, both ways over each boundary.
        const auto rows = (n - 1) * 2 * overlap * kLayers * 2 * size.frames * size.columns * kWidth * 4;
        const auto formula = rows + of_the_model(world, size) + agreement(world);
        require(sent == formula, fmt::format("{} bytes were sent, {} by the formula", sent, formula));
        // What a rank has of others, and what it has shown them.
        const auto held = sum(world, model.status().bytes_held);
        require(held == 2 * rows, fmt::format("{} bytes are held, {} by the formula", held, 2 * rows));
      },
      {2, 3});
}

TEST_CASE("a call that is refused has sent nothing but what ranks agree by") {
  wanpar::Recording recording;
  on_worlds(
      [&](Communicator world) {
        c10::InferenceMode no_gradients;
        const Size wide{1, 7, 2}, few{2, world.size() - 1, 2};
        auto sent_by_refusal = [&](PatchParallelOptions options, Size size, Size later,
                                   const std::string& part) {
          options.group = recording(world), options.warmup_steps = 1;
          auto model = wrapped(options, size);
          model(noise(size));  // without steps: ranks compare what is to be alike
          const bool has_begun = later.tokens() != size.tokens();
          for (int step = 0; has_begun && step < 2; ++step) model.update_step(step), model(noise(size));
          model.update_step(has_begun ? 2 : 0);
          const auto bytes =
              bytes_of(world, recording, [&] { require_error([&] { model(noise(later)); }, part); });
          require(bytes <= agreement(world), fmt::format("{}: {} bytes were sent", part, bytes));
        };
        sent_by_refusal({}, few, few, "rows for");
        sent_by_refusal({.patch_overlap = 4}, wide, wide, "more than the");
        sent_by_refusal({}, kSize, {kSize.frames, kSize.rows, 8}, "of other shapes");
        auto model = wrapped({.group = recording(world)});
        model.update_step(0);
        at::AutoGradMode gradients(true);
        require(
            bytes_of(world, recording,
                     [&] { require_error([&] { model(noise(kSize)); }, "steps have no gradients"); }) == 0,
            "nothing is sent with gradients");
      },
      {2, 3, 4});
}

}  // namespace bytes_test
