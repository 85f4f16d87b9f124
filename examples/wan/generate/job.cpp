#include "wan/generate/job.hpp"

#include <ATen/Context.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>
#include <wanpar/module/deferred.hpp>

#include "wan/cli/prompts.hpp"
#include "wan/generate/patches.hpp"
#include "wan/io/load.hpp"
#include "wan/model/transformer.hpp"
#include "wan/scheduler/scheduler.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/umt5.hpp"
#include "wan/vae/decoder.hpp"

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
    throw wanpar::Error(
        "--device cuda, or --backend nccl: no CUDA device is available here; use --device cpu");
  if (wanted) return *wanted == "cuda" ? at::kCUDA : at::kCPU;
  return at::hasCUDA() ? at::kCUDA : at::kCPU;
}

at::ScalarType choose_dtype(const std::optional<std::string>& wanted, at::DeviceType device) {
  if (wanted) return *wanted == "bfloat16" ? at::kBFloat16 : at::kFloat;
  return device == at::kCUDA ? at::kBFloat16 : at::kFloat;
}

template <class Module, class Config>
void check_fits(const Config& config, const Checkpoint& checkpoint, Part part, const Weights& weights,
                const std::vector<std::string>& ignored = {}) {
  const auto module = wanpar::deferred([&] { return Module(config); });
  check(*module, weights, {.ignore_prefixes = ignored, .name_in_file = [&](const std::string& name) {
                             return checkpoint.name_in_file(part, name);
                           }});
}

/// Checks that each network, constructed deferred, has its tensors in the checkpoint.
void check_networks(const Checkpoint& checkpoint) {
  check_fits<Transformer>(checkpoint.transformer_config(), checkpoint, Part::transformer,
                          checkpoint.transformer());
  check_fits<Umt5>(checkpoint.text_encoder_config(), checkpoint, Part::text_encoder,
                   checkpoint.text_encoder());
  check_fits<Vae>(checkpoint.vae_config(), checkpoint, Part::vae, checkpoint.vae(), kEncoderPrefixes);
  const auto text_dim = checkpoint.transformer_config().text_dim, dim = checkpoint.text_encoder_config().dim;
  if (text_dim != dim)
    throw wanpar::Error(
        fmt::format("{}: the transformer takes texts of {} channels, but the text encoder in {} makes {}",
                    checkpoint.transformer().begin()->second.file.string(), text_dim,
                    checkpoint.text_encoder().begin()->second.file.string(), dim));
}

/// Checks that the token grid fits the model's position tables.
void check_positions(const Checkpoint& checkpoint, const VideoSize& size) {
  const auto latents = latent_shape(checkpoint.vae_config(), size);
  const auto most = checkpoint.transformer_config().positions;
  for (const auto tokens : {latents[1], latents[2] / kPatch, latents[3] / kPatch})
    if (tokens > most)
      throw wanpar::Error(
          fmt::format("--size {}*{} with --frame_num {} has {} tokens in one direction, and the model has "
                      "positions for {}; take a smaller one",
                      size.width, size.height, size.frames, tokens, most));
}

/// A fingerprint of tensors: names, shapes, dtypes, and a few of their values.
std::string described(const Weights& weights) {
  uint64_t hash = 14695981039346656037U;  // FNV-1a
  const auto mix = [&](std::string_view bytes) {
    for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211U;
  };
  for (const auto& [name, entry] : weights) {
    const auto& tensor = entry.tensor;
    mix(fmt::format("{} {} [{}]", name, c10::toString(tensor.scalar_type()),
                    fmt::join(tensor.sizes(), ", ")));
    constexpr size_t kSome = 64;
    const auto some = tensor.is_contiguous() ? std::min(kSome, tensor.nbytes()) : 0;
    mix({static_cast<const char*>(tensor.const_data_ptr()), some});
  }
  return fmt::format("{} tensors, fingerprint {:016x}", weights.size(), hash);
}

std::vector<std::vector<int64_t>> ids_of(const std::vector<std::string>& texts, const Checkpoint& checkpoint,
                                         const Tokenizer& tokenizer) {
  const auto rows = checkpoint.text_encoder_config().vocabulary;
  const auto refuse = [&](int64_t id) {
    throw wanpar::Error(fmt::format(
        "{} gives ids up to {}, but the text encoder in {} has {} rows; they are not of one "
        "checkpoint",
        checkpoint.tokenizer().string(), id, checkpoint.text_encoder().begin()->second.file.string(), rows));
  };
  if (tokenizer.size() > rows) refuse(tokenizer.size() - 1);
  std::vector<std::vector<int64_t>> all;
  for (const auto& text : texts) {
    all.push_back(tokenizer.encode(text));
    for (const auto id : all.back())
      if (id < 0 || id >= rows) refuse(id);
  }
  return all;
}

std::vector<std::string> notes_of(const Options& options, const std::vector<std::vector<int64_t>>& texts,
                                  int64_t text_len, int world_size) {
  auto notes = options.notes;
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto tokens = static_cast<int64_t>(texts[i].size());
    const auto which = i + 1 == texts.size() ? std::string("the negative prompt")
                       : texts.size() > 2    ? fmt::format("prompt {}", i + 1)
                                             : "the prompt";
    if (tokens > text_len)
      notes.push_back(
          fmt::format("{} has {} tokens and the model takes {}, so what follows the first {} is left out",
                      which, tokens - 1, text_len - 1, text_len - 1));
  }
  if (!options.noise.empty() && options.base_seed)
    notes.emplace_back("--base_seed has no effect beside --noise, which is the noise itself");
  for (const auto& [is_given, flag] :
       {std::pair(options.dit_fsdp, "--dit_fsdp"), {options.t5_fsdp, "--t5_fsdp"}})
    if (is_given && world_size == 1) notes.push_back(fmt::format("{} has no effect on one rank", flag));
  if (options.stats && options.degrees.patch.value_or(1) == 1)
    notes.emplace_back("--stats tells of patches, and there are none without --patch_parallel_size 2");
  if (options.guidance() == Guidance::off)
    notes.push_back(
        fmt::format("--sample_guide_scale {} switches guidance off, and the negative prompt with it",
                    options.sample_guide_scale));
  return notes;
}

}  // namespace

Source::Source(const std::filesystem::path& ckpt_dir)
    : checkpoint(ckpt_dir), tokenizer(std::make_shared<const Tokenizer>(checkpoint.tokenizer())) {
  check_networks(checkpoint);
}

Job plan(Options options, int world_size) {
  prompts_of(options);  // refused before anything is read
  const Source source(options.ckpt_dir);
  return plan(source, std::move(options), world_size);
}

Job plan(const Source& source, Options options, int world_size) {
  auto prompts = prompts_of(options);
  const auto& checkpoint = source.checkpoint;
  const auto& transformer = checkpoint.transformer_config();
  if (options.task) check_task(*options.task, transformer);

  const VideoSize size{options.width, options.height, options.frame_num};
  check_positions(checkpoint, size);
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
  auto all = prompts;
  all.push_back(options.negative_prompt);
  auto texts = ids_of(all, checkpoint, *source.tokenizer);
  auto notes = notes_of(options, texts, transformer.text_len, world_size);
  Job job{std::move(options),
          checkpoint,
          std::move(prompts),
          std::move(texts),
          std::move(notes),
          degrees,
          size,
          shift,
          device,
          dtype};
  patch_options(job);
  return job;
}

std::string name_of(at::ScalarType dtype) { return dtype == at::kBFloat16 ? "bfloat16" : "float32"; }

std::string described(const Job& job, const std::string& version) {
  const auto& o = job.options;
  std::string lines;
  const auto line = [&](const char* flag, const auto& value) {
    lines += fmt::format("--{} {}\n", flag, value);
  };
  line("size", fmt::format("{}*{}", job.size.width, job.size.height));
  line("frame_num", job.size.frames);
  line("sample_solver", o.sample_solver);
  line("sample_steps", o.sample_steps);
  line("sample_shift", job.shift);
  line("sample_guide_scale", o.sample_guide_scale);
  line("base_seed", o.base_seed ? std::to_string(*o.base_seed) : "-1");
  line("dtype", name_of(job.dtype));
  line("device", c10::DeviceTypeName(job.device, true));
  line("dit_fsdp", o.dit_fsdp);
  line("t5_fsdp", o.t5_fsdp);
  line("t5_cpu", o.t5_cpu);
  line("vae_parallel", o.vae_parallel);
  line("timeout", o.timeout);
  line("fps", o.fps);
  line("cfg_size", job.degrees.cfg);
  line("ulysses_size", job.degrees.ulysses);
  line("ring_size", job.degrees.ring);
  line("pipeline_size", job.degrees.pipeline);
  line("data_parallel_size", job.degrees.data);
  line("patch_parallel_size", job.degrees.patch);
  const auto& p = o.patches;
  const auto if_given = [](const auto& value) { return value ? fmt::format("{}", *value) : "none"; };
  line("split_mode", p.split_mode);
  line("patch_overlap", if_given(p.patch_overlap));
  line("temporal_chunk_size", if_given(p.temporal_chunk_size));
  line("warmup_steps", p.warmup_steps);
  line("sync_frequency", p.sync_frequency);
  line("sync_first_step", p.sync_first_step);
  line("async_boundary_update", p.async_boundary_update);
  line("kv_dtype", if_given(p.kv_dtype));
  line("max_staleness", if_given(p.max_staleness));
  for (const auto& prompt : job.prompts) line(o.prompt_file.empty() ? "prompt" : "prompt_file with", prompt);
  line("negative_prompt", o.negative_prompt);
  for (const auto& [flag, file] : {std::pair("noise", o.noise),
                                   {"save_file", o.save_file},
                                   {"save_tensors", o.save_tensors},
                                   {"contact_sheet", o.contact_sheet},
                                   {"trace", o.trace}})
    line(flag, file.empty() ? "none" : file.filename().string());
  const auto& c = job.checkpoint;
  for (const auto& [part, weights] :
       {std::pair("transformer", c.transformer()), {"text encoder", c.text_encoder()}, {"VAE", c.vae()}})
    lines += fmt::format("--ckpt_dir with a {} of {}\n", part, described(weights));
  return lines + "version " + version + "\n";
}

}  // namespace wan
