#include "wan/generate/job.hpp"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <utility>

#include "wan/cli/prompts.hpp"
#include "wan/scheduler/scheduler.hpp"

namespace wan {
namespace {

void check_task(const std::string& task, const TransformerConfig& config) {
  const bool large = task == "t2v-14B";
  const int64_t dim = large ? 5120 : 1536, layers = large ? 40 : 30;
  if (config.dim != dim || config.layers != layers)
    throw wanpar::Error(
        fmt::format("--task {} is a transformer of {} layers and width {}, but the checkpoint holds one of "
                    "{} and {}; leave --task out",
                    task, layers, dim, config.layers, config.dim));
}

at::DeviceType choose_device(const std::optional<std::string>& wanted) {
  if (wanted == "cuda" && !at::hasCUDA())
    throw wanpar::Error("--device cuda: no CUDA device is available here; use --device cpu");
  if (wanted) return *wanted == "cuda" ? at::kCUDA : at::kCPU;
  return at::hasCUDA() ? at::kCUDA : at::kCPU;
}

at::ScalarType choose_dtype(const std::optional<std::string>& wanted, at::DeviceType device) {
  if (wanted) return *wanted == "bfloat16" ? at::kBFloat16 : at::kFloat;
  return device == at::kCUDA ? at::kBFloat16 : at::kFloat;
}

}  // namespace

Job plan(Options options, int world_size) {
  auto prompts = prompts_of(options);
  Checkpoint checkpoint(options.ckpt_dir);
  const auto& transformer = checkpoint.transformer_config();
  if (options.task) check_task(*options.task, transformer);

  const VideoSize size{options.width, options.height, options.frame_num};
  latent_shape(checkpoint.vae_config(), size);
  const auto shift = options.sample_shift.value_or(checkpoint.flow_shift().value_or(5.0));
  make_scheduler(options.sample_solver, options.sample_steps, shift);
  const auto degrees = choose_degrees(world_size, transformer.heads, options.degrees, options.guidance());
  if (degrees.pipeline > transformer.layers)
    throw wanpar::Error(
        fmt::format("--pipeline_size {} is more stages than the transformer has blocks, {}; let "
                    "--ulysses_size and --ring_size share them",
                    degrees.pipeline, transformer.layers));
  const auto device = choose_device(options.device);
  const auto dtype = choose_dtype(options.dtype, device);
  return {std::move(options), std::move(checkpoint), std::move(prompts), degrees, size, shift, device, dtype};
}

}  // namespace wan
