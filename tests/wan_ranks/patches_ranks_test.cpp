// Displaced patches in the pipeline: exact where all steps are warm-up, close to it otherwise, and as large
// in memory as is planned for.
#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>

#include "wan/generate/denoise.hpp"
#include "wan/generate/patches.hpp"
#include "worlds.hpp"

namespace patches_ranks_test {
namespace {

/// 3 frames of 6 x 4 tokens.
wan::Options options_for(int64_t steps, wan::RequestedDegrees degrees = {},
                         wan::RequestedPatches patches = {}) {
  wan::Options options;
  options.ckpt_dir = TEST_DATA "/diffusers";
  options.prompt = "a fox";
  options.width = 64, options.height = 96, options.frame_num = 9;
  options.sample_steps = steps;
  options.device = "cpu";
  options.degrees = degrees;
  options.patches = std::move(patches);
  return options;
}

struct Made {
  at::Tensor latents;
  std::optional<wanpar::PatchStatus> status = {};
};

Made made_by(const wanpar::Communicator& world, const wan::Options& options, int videos = 1) {
  const at::NoGradGuard no_grad;
  const auto job = wan::plan(options, world.size());
  const wanpar::Mesh mesh(world, wan::axes_of(job.degrees));
  wan::SharedTransformer shared([&] { return wan::load_transformer(job, at::kCPU); });
  auto transformer = wan::parallel_transformer(mesh, job, shared, at::kCPU);
  const auto texts = at::randn({2, 512, 64}, at::make_generator<at::CPUGeneratorImpl>(uint64_t{4})) / 8;
  Made made;
  for (int i = 0; i < videos; ++i)
    made.latents = wan::denoise(mesh, job, transformer, wan::first_latents(job, 3), texts, {});
  if (transformer.patches) made.status = transformer.patches->status();
  return made;
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

wan::RequestedPatches dealt(const std::string& mode, int64_t warmup_steps) {
  return {.split_mode = mode, .warmup_steps = warmup_steps};
}

}  // namespace

TEST_CASE(
    "patches that are all warm-up make the latents of one rank, beside and around what else ranks share") {
  const auto expected = made_by({}, options_for(3)).latents;
  const auto equals = [&](const wanpar::Communicator& world, wan::RequestedDegrees degrees,
                          const std::string& mode, bool dit_fsdp = false) {
    auto options = options_for(3, degrees, dealt(mode, 3));
    options.dit_fsdp = dit_fsdp;
    require_close(made_by(world, options).latents, expected, 1e-4,
                  fmt::format("{} ranks, {} patches, {}{}", world.size(), *degrees.patch, mode,
                              dit_fsdp ? ", sharded" : ""));
  };
  on_worlds(
      [&](wanpar::Communicator world) {
        const int64_t n = world.size();
        equals(world, {.cfg = 1, .patch = n}, "spatial");
        if (n <= 3) equals(world, {.cfg = 1, .patch = n}, "temporal");
        if (n % 2 == 0) {
          equals(world, {.cfg = 2, .patch = n / 2}, "spatial");
          equals(world, {.cfg = 1, .ulysses = 2, .patch = n / 2}, "spatial");
          equals(world, {.cfg = 1, .patch = n}, "spatial", true);
        }
        if (n == 4) {
          equals(world, {.cfg = 1, .patch = n}, "spatiotemporal");
          equals(world, {.cfg = 1, .pipeline = 2, .patch = 2}, "spatial");
        }
      },
      {1, 2, 3, 4});
}

TEST_CASE("displaced patches make other latents than one rank, but close to them, and the same ones again") {
  const auto expected = made_by({}, options_for(10)).latents;
  on_worlds(
      [&](wanpar::Communicator world) {
        for (const std::string mode : {"spatial", "temporal"}) {
          const auto options = options_for(10, {.cfg = 1, .patch = world.size()}, dealt(mode, 2));
          const auto made = made_by(world, options);
          const auto off = distance(made.latents, expected);
          require(off > 1e-6 && off < 0.1, fmt::format("{}: {} of their norm", mode, off));
          require(made.status->mode == "displaced" && *made.status->step == 9, made.status->text());
          require_equal(made_by(world, options, 2).latents, made.latents,
                        "a second video is the first again");
        }
      },
      {2, 3});
}

TEST_CASE("what patches keep is what is planned for") {
  on_worlds(
      [&](wanpar::Communicator world) {
        for (const auto& dtype : {std::optional<std::string>(), std::optional<std::string>("bfloat16")})
          for (double guidance : {1.0, 5.0})
            for (int64_t ulysses : {int64_t{1}, int64_t{2}}) {
              auto options = options_for(8, {.cfg = 1, .ulysses = ulysses, .patch = world.size() / ulysses},
                                         dealt("spatial", 1));
              options.patches.kv_dtype = dtype;
              options.sample_guide_scale = guidance;
              const auto planned = wan::bytes_kept(wan::plan(options, world.size()));
              const auto held = static_cast<double>(made_by(world, options).status->bytes_held);
              const auto sum = world.all_reduce(at::full({1}, held, at::kDouble)).get().item<double>();
              require(sum == planned * world.size(),
                      fmt::format("{} bytes are held on {} ranks, {} planned on each", sum, world.size(),
                                  planned));
            }
      },
      {4});
}

TEST_CASE("pixels and frames become whole rows and frames of tokens, rounded up") {
  const auto options = [](wan::RequestedPatches patches) {
    return wan::patch_options(wan::plan(options_for(8, {.cfg = 1, .patch = 2}, std::move(patches)), 2));
  };
  CHECK(options({.patch_overlap = 0}).patch_overlap == 0);
  CHECK(options({.patch_overlap = 16}).patch_overlap == 1);
  CHECK(options({.patch_overlap = 17}).patch_overlap == 2);
  const auto temporal = options({.split_mode = "temporal", .patch_overlap = 3, .temporal_chunk_size = 5});
  CHECK(temporal.patch_overlap == 1);
  CHECK(temporal.temporal_chunk_size == 2);
  CHECK_FALSE(options({}).patch_overlap);
}

TEST_CASE("a video that has too little for its patches is refused before the work") {
  const auto refused = [](int64_t ranks, wan::RequestedPatches patches, const std::string& part) {
    require_error([&] { wan::plan(options_for(8, {.cfg = 1, .patch = ranks}, std::move(patches)), ranks); },
                  part);
  };
  refused(7, {}, "64*96 with --frame_num 9 has 6 rows of tokens, fewer than the 7 ranks");
  refused(4, {.split_mode = "temporal"}, "has 3 frames of tokens, fewer than the 4 ranks");
  refused(5, {.split_mode = "spatiotemporal"}, "--patch_parallel_size 5 is no product of two numbers");
  refused(3, {.patch_overlap = 33}, "--patch_overlap 33 is 3 rows of tokens, more than the 2 of a patch");
}

}  // namespace patches_ranks_test
