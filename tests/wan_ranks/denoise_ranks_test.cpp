#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/transport/recording.hpp>

#include "wan/generate/denoise.hpp"
#include "wan/generate/transformer.hpp"
#include "worlds.hpp"

namespace denoise_ranks_test {
namespace {

wan::Options options_for(wan::RequestedDegrees degrees = {}, bool dit_fsdp = false, double guidance = 5) {
  wan::Options options;
  options.ckpt_dir = TEST_DATA "/diffusers";
  options.prompt = "a fox";
  options.width = 64, options.height = 48, options.frame_num = 5;
  options.sample_steps = 2;
  options.sample_guide_scale = guidance;
  options.device = "cpu";
  options.degrees = degrees;
  options.dit_fsdp = dit_fsdp;
  return options;
}

at::Tensor texts() {
  return at::randn({2, 512, 64}, at::make_generator<at::CPUGeneratorImpl>(uint64_t{4})) / 8;
}

at::Tensor latents_of(const wanpar::Communicator& world, const wan::Job& job) {
  const at::NoGradGuard no_grad;
  const wanpar::Mesh mesh(world, wan::axes_of(job.degrees));
  wan::SharedTransformer shared([&] { return wan::load_transformer(job, at::kCPU); });
  auto transformer = wan::parallel_transformer(mesh, job, shared, at::kCPU);
  return wan::denoise(mesh, job, transformer, wan::first_latents(job, 3), texts(), {});
}

/// Every way to share one video among so many ranks; the checkpoint has two blocks.
std::vector<wan::RequestedDegrees> degrees_for(int64_t ranks) {
  std::vector<wan::RequestedDegrees> all;
  for (int64_t cfg : {1, 2})
    for (int64_t pipeline : {1, 2})
      for (int64_t ulysses = 1; ulysses <= ranks; ++ulysses)
        if (ranks % (cfg * pipeline * ulysses) == 0)
          all.push_back({cfg, ulysses, ranks / (cfg * pipeline * ulysses), 1, pipeline});
  return all;
}

}  // namespace

TEST_CASE("latents are those of one rank, however guidance, heads, tokens, blocks and weights are shared") {
  for (double guidance : {5.0, 1.0}) {
    const auto expected = latents_of({}, wan::plan(options_for({}, false, guidance), 1));
    on_worlds(
        [&](wanpar::Communicator world) {
          for (const auto& degrees : degrees_for(world.size()))
            for (bool dit_fsdp : {false, true}) {
              if (guidance == 1 && degrees.cfg == 2) continue;
              const auto job = wan::plan(options_for(degrees, dit_fsdp, guidance), world.size());
              require_close(latents_of(world, job), expected, 1e-4,
                            fmt::format("{}{}", describe(job.degrees), dit_fsdp ? ", sharded" : ""));
            }
        },
        {1, 2, 3, 4});
  }
}

TEST_CASE("one group gathers the weights once for both branches of guidance") {
  on_worlds(
      [&](wanpar::Communicator world) {
        const auto gathered = [&](double guidance, int64_t pipeline) {
          auto job = wan::plan(options_for({}, true, guidance), 1);
          job.degrees = {.data = world.size() / pipeline, .pipeline = pipeline};
          const wanpar::Recording recording;
          latents_of(recording(world), job);
          return recording.totals()[wanpar::Operation::all_gather].bytes;
        };
        require(gathered(5, 1) > 1 << 20, "weights are gathered");
        require(gathered(5, 1) == gathered(1, 1), "as many bytes with guidance as without");
        if (world.size() == 4) require(gathered(5, 2) == gathered(1, 2), "in a pipeline as well");
      },
      {2, 3, 4});
}

TEST_CASE("more stages than blocks are refused") {
  require_error([] { wan::plan(options_for({.pipeline = 3}), 3); }, "--pipeline_size 3 is more stages");
}

}  // namespace denoise_ranks_test
