// Wrong use is one error on every rank, and the status says what is.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/error.hpp>

#include "video.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::patch_parallel;
using wanpar::PatchParallelOptions;
using wanpar::SplitMode;

namespace use_test {

using namespace patches;

void require_refused(Communicator world, PatchParallelOptions options, const std::string& part) {
  options.group = world;
  require_error([&] { wrapped(options); }, part);
}

TEST_CASE("options that cannot be are refused") {
  on_worlds(
      [](Communicator world) {
        require_refused(world, {.warmup_steps = -1}, ".warmup_steps is -1; give 0 or more");
        require_refused(world, {.sync_frequency = -2}, ".sync_frequency is -2");
        require_refused(world, {.warmup_steps = 3, .sync_first_step = false},
                        ".sync_first_step is false, but .warmup_steps 3");
        require_refused(world, {.kv_dtype = at::kInt}, ".kv_dtype is Int; give at::kBFloat16");
        require_refused(world, {.max_staleness = -0.5}, ".max_staleness is -0.5");
        require_refused(world, {.patch_overlap = -1}, ".patch_overlap is -1; give 0 or more");
        require_refused(world, {.split_mode = SplitMode::temporal, .temporal_chunk_size = 0},
                        ".temporal_chunk_size is 0; give 1 or more");
        require_refused(world, {.temporal_chunk_size = 4},
                        ".temporal_chunk_size is 4, but .split_mode is spatial; it is for temporal");
        require_refused(world, {.split_mode = SplitMode::spatiotemporal, .patch_overlap = 1},
                        ".patch_overlap is for .split_mode spatial or temporal");
        require_refused(world, {.split_mode = SplitMode::spatiotemporal, .temporal_parts = 3},
                        ".temporal_parts is 3 for");
        require_refused(world, {.temporal_parts = 2}, "it is for spatiotemporal");
        require_refused(world, {.split_mode = SplitMode::spatiotemporal, .split = {{.arg = 0}}},
                        ".split names arguments, of which one dimension is dealt");
        require_refused(world, {.split = {{.arg = 0, .frames = 2, .rows = {}}}},
                        ".split names argument 0 without its rows, which .split_mode spatial deals");
      },
      {1, 2});
  on_worlds(
      [](Communicator world) {
        require_refused(world, {.warmup_steps = world.rank()},
                        "PatchParallel: the ranks have different options: where rank 0 has warmup_steps 0, "
                        "rank 1 has warmup_steps 1");
      },
      {2, 3});
}

TEST_CASE("fewer rows or frames than ranks are refused in steps, and exact without") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        auto require_refused_in_steps = [&](PatchParallelOptions options, Size size,
                                            const std::string& part) {
          options.group = world;
          auto model = wrapped(options, size);
          require_close(model(noise(size)), Transformer(size)(noise(size)), 1e-5, "without steps");
          model.update_step(0);
          require_error([&] { model(noise(size)); }, part);
        };
        require_refused_in_steps({}, {4, 3, 2}, "PatchParallel: 3 rows for 4 ranks");
        require_refused_in_steps({.split_mode = SplitMode::temporal}, {3, 4, 2},
                                 "PatchParallel: 3 frames for 4 ranks");
        require_refused_in_steps({.split_mode = SplitMode::spatiotemporal, .temporal_parts = 2}, {1, 4, 2},
                                 "PatchParallel: 1 frames for 2 ranks");
        require_refused_in_steps({.patch_overlap = 2}, {1, 7, 2},
                                 "PatchParallel: .patch_overlap is 2 rows, more than the 1 of a patch");
      },
      {4});
}

TEST_CASE("tokens without a grid, and with one that does not hold them, are refused") {
  on_worlds(
      [](Communicator world) {
        auto plain = [](const Tensor& x) {
          return wanpar::gather_sequence(wanpar::split_sequence(x, 1), 1);
        } | patch_parallel({.group = world});
        require_error([&] { plain(at::ones({1, 8, 2})); }, "split_sequence without a grid");
        auto other = [](const Tensor& x) {
          return wanpar::split_sequence(x, 1, {}, wanpar::TokenGrid{1, 4, 3});
        } | patch_parallel({.group = world});
        require_error(
            [&] {
              other(at::ones({1, 8, 2}));
            },
            "a grid of 1 frames, 4 rows and 3 columns for 8 tokens");
      },
      {2});
}

TEST_CASE("steps follow one another") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        auto model = wrapped({.group = world, .warmup_steps = 1});
        const auto video = noise(kSize), exact = Transformer(kSize)(video);
        require_error([&] { model.update_step(-1); }, "update_step(-1); give the number of a step");
        for (int step : {0, 1}) model.update_step(step), model(video);
        require_error([&] { model.update_step(1); }, "update_step(1) after step 1; give 2, or 0");
        require_error([&] { model.update_step(5); }, "update_step(5) after step 1");
        model.update_step(2);
        model(video);
        require(model.status().mode == (world.size() > 1 ? "displaced" : "exact"),
                "a step that was refused changes nothing");
        model.synchronize();
        require_close(model(video * 2), Transformer(kSize)(video * 2), 1e-5, "without a step it is exact");
        model.update_step(5);
        require_close(model(video), exact, 1e-5, "behind synchronize() there is a warm-up");
        require(model.status().mode == (world.size() > 1 ? "warm-up" : "exact"),
                "behind synchronize() there is a warm-up");
      },
      {1, 2, 3});
}

TEST_CASE("ranks in different steps all throw, and may begin anew") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        auto model = wrapped({.group = world, .warmup_steps = 1});
        const auto video = noise(kSize), exact = Transformer(kSize)(video);
        for (int step : {0, 1}) model.update_step(step), model(video);
        const bool is_ahead = world.rank() == 1;
        if (is_ahead) {
          model.synchronize();
          model.update_step(7);
        } else {
          model.update_step(2);
        }
        require_error(
            [&] { model(video); },
            "the ranks have different steps: where rank 0 has call 0 of step 2, displaced, rank 1 has "
            "call 0 of step 7, warm-up");
        model.update_step(0);
        require_close(model(video), exact, 1e-5, "it begins anew");
      },
      {2, 3});
}

TEST_CASE("a step out of order on one rank is told to the others") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        auto model = wrapped({.group = world, .warmup_steps = 1});
        const auto video = noise(kSize), exact = Transformer(kSize)(video);
        for (int step : {0, 1}) model.update_step(step), model(video);
        auto step = [&] {
          model.update_step(world.rank() == 0 ? 9 : 2);
          model(video);
        };
        require_error(step, "update_step(9) after step 1");
        model.update_step(0);
        require_close(model(video), exact, 1e-5, "it begins anew");
      },
      {2, 3});
}

TEST_CASE("displaced steps want what the step before had") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        const auto video = noise(kSize);
        auto begun = [&] {
          auto model = wrapped({.group = world, .warmup_steps = 1});
          for (int step : {0, 1}) model.update_step(step), model(video);
          model.update_step(2);
          return model;
        };
        auto other_batch = begun();
        require_error(
            [&] {
              other_batch(at::cat({video, video}));
            },
            "call 0 of step 2 has arguments of other shapes or dtypes than in the step before");
        auto more_calls = begun();
        more_calls(video);
        require_error([&] { more_calls(video); }, "call 1 of step 2, of which the step before had 1");
        auto with_a_gap = wrapped({.group = world, .warmup_steps = 1});
        for (int step : {0, 1, 2, 3}) {  // two calls, two, one, and again two
          with_a_gap.update_step(step);
          with_a_gap(video);
          if (step < 2) with_a_gap(video);
        }
        require_error([&] { with_a_gap(video); }, "call 1 of step 3, of which the step before had 1");
        more_calls.update_step(0);
        require_close(more_calls(video), Transformer(kSize)(video), 1e-5, "it begins anew");
        auto with_gradient = begun();
        at::AutoGradMode gradients(true);
        require_error([&] { with_gradient(video); }, "steps have no gradients");
      },
      {2, 3});
}

TEST_CASE("a rank that fails in a step ends it on all of them") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        bool fails = false;
        auto model = [&, inner = Transformer(kSize)](const Tensor& video) {
          return inner(video, [&](int64_t layer, const Tensor& q, const Tensor& k, const Tensor& v) {
            if (fails && layer == 1 && world.rank() == 0) throw wanpar::Error("rank 0 has no memory left");
            return at::scaled_dot_product_attention(q, k, v);
          });
        } | patch_parallel({.group = world, .warmup_steps = 1});
        const auto video = noise(kSize), exact = Transformer(kSize)(video);
        for (int step : {0, 1}) model.update_step(step), model(video);
        model.update_step(2);
        fails = true;
        require_error([&] { model(video); }, "rank 0 has no memory left");
        fails = false;
        model.update_step(0);
        require_close(model(video), exact, 1e-5, "it begins anew");
        model.update_step(1);
        require_close(model(video), exact, 1e-5, "and goes on");
      },
      {2, 3});
}

TEST_CASE("without steps it is exact, with gradients") {
  on_worlds(
      [](Communicator world) {
        auto video = noise(kSize, at::kDouble).requires_grad_();
        const Transformer double_model(kSize, at::kDouble);
        auto parallel = [&](const Tensor& x) { return double_model(x); } |
                        patch_parallel({.group = world, .split_mode = SplitMode::temporal});
        auto loss = [](const Tensor& y) {
          return (y * at::arange(y.numel(), y.options()).cos().view_as(y)).sum();
        };
        const auto exact = double_model(video), given = parallel(video);
        require_close(given, exact, 1e-9, "the result");
        auto gradient = [&](const Tensor& y) {
          loss(y).backward();
          return std::exchange(video.mutable_grad(), Tensor());
        };
        require_close(gradient(given), gradient(exact), 1e-9, "the gradient");
      },
      {1, 2, 3});
}

TEST_CASE("the status says what is held") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        auto model = wrapped({.group = world, .warmup_steps = 1});
        require(model.status().mode == "exact" && !model.status().step, "before the first step");
        const auto video = noise(kSize);
        for (int step : {0, 1}) {
          model.update_step(step);
          model(video * (1 + step));
        }
        const auto status = model.status();
        require(status.mode == "displaced" && status.step == 1, "mode and step");
        require(status.buffers.size() == kLayers, "a buffer for each layer");
        require(status.buffers[2].call == 0 && status.buffers[2].place == 2 && status.buffers[2].age == 0 &&
                    status.buffers[2].what == "keys and values",
                "a buffer");
        require(*status.buffers[0].staleness > 0.0, "a video twice as bright is another one");
        require(status.text().find("step 1, ") != std::string::npos, status.text());
        require(status.json().starts_with(R"({"mode": "displaced", "step": 1, "bytes_sent": )"),
                status.json());
        model.update_step(2);
        require(model.status().buffers[0].age == 1, "it is of the step before");
        model.synchronize();
        require(model.status().buffers.empty() && model.status().bytes_held == 0, "it is forgotten");
      },
      {2});
}

TEST_CASE("a status is text, and JSON") {
  const wanpar::PatchStatus before{"exact", {}, {}, 0, 0};
  CHECK(before.text() == "PatchParallel: exact, 0 bytes sent, 0 bytes held\n");
  CHECK(before.json() ==
        R"({"mode": "exact", "step": null, "bytes_sent": 0, "bytes_held": 0, "buffers": []})");
  const wanpar::PatchStatus later{
      "displaced", 7, {{0, 1, "keys and values", 1, 0.125, 96}, {1, 0, "moments", 2, {}, 4}}, 300, 100};
  CHECK(later.text() ==
        "PatchParallel: displaced, step 7, 300 bytes sent, 100 bytes held\n"
        "  call 0, place 1: keys and values, 1 steps old, changed by 0.125, 96 bytes\n"
        "  call 1, place 0: moments, 2 steps old, 4 bytes\n");
  CHECK(later.json() ==
        R"({"mode": "displaced", "step": 7, "bytes_sent": 300, "bytes_held": 100, "buffers": [)"
        R"({"call": 0, "place": 1, "what": "keys and values", "age": 1, "staleness": 0.125, "bytes": 96}, )"
        R"({"call": 1, "place": 0, "what": "moments", "age": 2, "staleness": null, "bytes": 4}]})");
}

TEST_CASE("one rank alone is exact in every step, and says so") {
  on_worlds(
      [](Communicator world) {
        c10::InferenceMode no_gradients;
        auto model = wrapped({.group = world, .split_mode = SplitMode::temporal, .temporal_chunk_size = 1});
        const auto video = noise(kSize), exact = Transformer(kSize)(video);
        for (int step = 0; step < 7; ++step) {
          model.update_step(step);
          require_equal(model(video), exact, "a step");
          require(model.status().mode == "exact" && model.status().step == step, model.status().text());
        }
      },
      {1});
}

}  // namespace use_test
