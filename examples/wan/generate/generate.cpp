#include "wan/generate/generate.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ostream.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <optional>
#include <random>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "wan/generate/agree.hpp"
#include "wan/io/load.hpp"
#include "wan/io/part_file.hpp"
#include "wan/io/png.hpp"
#include "wan/io/progress.hpp"
#include "wan/io/video.hpp"
#include "wan/pipeline/guidance.hpp"
#include "wan/scheduler/scheduler.hpp"
#include "wan/text/encode.hpp"
#include "wan/text/negative_prompt.hpp"
#include "wan/vae/decoder.hpp"

namespace wan {
namespace {

/// Rank 0 may load, decode and write for long while the others wait for it.
constexpr auto kLong = std::chrono::hours(1);

bool is_first(const wanpar::Communicator& world) { return world.rank() == 0; }

std::string negative_prompt(const Options& options) {
  return options.negative_prompt.empty() ? kNegativePrompt : options.negative_prompt;
}

void check_files(const Job& job, const std::filesystem::path& file) {
  check_writable(
      file, static_cast<uintmax_t>(expected_video_bytes(job.size.frames, job.size.height, job.size.width)));
  for (auto& other : {job.options.contact_sheet, job.options.save_tensors})
    if (!other.empty()) check_writable(other, 1 << 20);
}

/// The same on every rank: the one asked for, or one that rank 0 draws.
uint64_t choose_seed(const wanpar::Communicator& world, const std::optional<uint64_t>& wanted,
                     at::Device device) {
  if (wanted) return *wanted;
  auto drawn = at::tensor({static_cast<int64_t>(std::random_device()() & 0x7fffffff)}).to(device);
  return static_cast<uint64_t>(world.broadcast(drawn, 0).get().item<int64_t>());
}

/// [2, text_len, text_dim], prompt then negative prompt. Only rank 0 ever holds the encoder.
at::Tensor embed_text(const wanpar::Communicator& world, const Job& job, at::Device device,
                      Progress* progress) {
  const auto& config = job.checkpoint.transformer_config();
  auto embeds =
      at::empty({2, config.text_len, config.text_dim}, at::TensorOptions(at::kFloat).device(device));
  agree(world, [&] {
    if (!is_first(world)) return;
    progress->start("text", 1);
    Umt5 encoder(job.checkpoint.text_encoder_config());
    load(*encoder, job.checkpoint.text_encoder(), {.dtype = job.dtype, .device = device});
    const Tokenizer tokenizer(job.checkpoint.tokenizer());
    embeds =
        encode_text(encoder, tokenizer, {job.options.prompt, negative_prompt(job.options)}, config.text_len)
            .to(at::kFloat);
    progress->update(1);
  });
  return world.broadcast(embeds, 0).get();
}

at::Tensor first_latents(const Job& job, uint64_t seed) {
  if (job.options.noise.empty()) return initial_noise(job.checkpoint.vae_config(), job.size, seed);
  const auto tensors = read_safetensors(job.options.noise);
  const auto found = tensors.find("latents");
  if (found == tensors.end())
    throw wanpar::Error(fmt::format("{}: there is no tensor 'latents' in it", job.options.noise.string()));
  const auto shape = latent_shape(job.checkpoint.vae_config(), job.size);
  auto noise = found->second.to(at::kFloat);
  if (noise.dim() == 5 && noise.size(0) == 1) noise = noise.squeeze(0);
  if (noise.sizes() != at::IntArrayRef(shape.data(), shape.size()))
    throw wanpar::Error(fmt::format("{}: 'latents' is [{}], but this video size needs [{}]",
                                    job.options.noise.string(), fmt::join(noise.sizes(), ", "),
                                    fmt::join(shape, ", ")));
  return noise;
}

/// Each group computes one branch of the guidance, and all have both.
Velocity guided_over(const wanpar::Communicator& groups, Velocity mine, double scale) {
  return [=](const at::Tensor& latents, double timestep) {
    const auto both = groups.all_gather(mine(latents, timestep).contiguous()).get().chunk(2, 0);
    return at::lerp(both[1], both[0], scale);
  };
}

/// The velocity that the scheduler follows, over all ranks of the mesh.
Velocity velocity(const wanpar::Mesh& mesh, const Job& job, const Transformer& transformer,
                  const at::Tensor& text) {
  const auto model =
      transformer | wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]});
  const auto under = [&](int64_t prompt) { return conditioned(model, text.narrow(0, prompt, 1)); };
  const auto scale = job.options.sample_guide_scale;
  if (job.options.guidance() == Guidance::off) return under(0);
  if (mesh.size("cfg") == 1) return guided(under(0), under(1), scale);
  return guided_over(mesh["cfg"], under(mesh.index("cfg")), scale);
}

at::Tensor denoise(const wanpar::Communicator& world, const Job& job, SharedTransformer& shared,
                   const at::Tensor& text, uint64_t seed, at::Device device, Progress* progress) {
  const wanpar::Mesh mesh(
      world, {{"cfg", job.degrees.cfg}, {"ring", job.degrees.ring}, {"ulysses", job.degrees.ulysses}});
  Transformer transformer{nullptr};
  at::Tensor noise;
  agree(world.with_timeout(kLong), [&] {
    noise = first_latents(job, seed).to(device);
    transformer = shared.get();
  });
  if (progress) progress->start("denoise", job.options.sample_steps);
  const auto scheduler = make_scheduler(job.options.sample_solver, job.options.sample_steps, job.shift);
  const auto step_done = [&](int64_t step, int64_t) {
    if (progress) progress->update(step);
  };
  return sample(noise.unsqueeze(0), *scheduler, velocity(mesh, job, transformer, text.to(job.dtype)),
                step_done)
      .squeeze(0);
}

at::Tensor decode(const Job& job, const at::Tensor& latents, at::Device device, Progress& progress) {
  if (!latents.isfinite().all().item<bool>())
    throw wanpar::Error(
        "the latents hold NaN or infinity, so there is no video; try --dtype float32, or a lower "
        "--sample_guide_scale");
  Vae vae(job.checkpoint.vae_config());
  load(*vae, job.checkpoint.vae(), {.device = device, .ignore_prefixes = {"encoder.", "conv1."}});
  progress.start("decode", latents.size(1));
  return vae->decode(latents.unsqueeze(0), [&](int64_t done, int64_t) { progress.update(done); })
      .squeeze(0)
      .to(at::kFloat)
      .cpu();
}

void write_files(const Job& job, const std::filesystem::path& file, uint64_t seed, const at::Tensor& text,
                 const at::Tensor& latents, const at::Tensor& frames) {
  const auto& o = job.options;
  const auto settings = fmt::format(
      "seed {}, size {}x{}, frames {}, solver {}, steps {}, shift {}, guidance {}, {}, negative prompt: {}",
      seed, job.size.width, job.size.height, job.size.frames, o.sample_solver, o.sample_steps, job.shift,
      o.sample_guide_scale, describe(job.degrees), negative_prompt(o));
  write_video(file, frames, {.fps = o.fps, .metadata = {{"title", o.prompt}, {"comment", settings}}});
  if (!o.contact_sheet.empty()) write_png(o.contact_sheet, contact_sheet(frames));
  if (!o.save_tensors.empty())
    write_safetensors(o.save_tensors,
                      {{"text_embeds", text.cpu()}, {"latents", latents.cpu()}, {"frames", frames}});
}

}  // namespace

Transformer load_transformer(const Job& job, at::Device device) {
  Transformer transformer(job.checkpoint.transformer_config());
  load(*transformer, job.checkpoint.transformer(),
       {.dtype = job.dtype, .device = device, .keep_float32 = kFloat32Parameters});
  return transformer;
}

void generate(const wanpar::Communicator& world, const Job& job, SharedTransformer& transformer,
              at::Device device, std::ostream& out) {
  const at::NoGradGuard no_grad;
  const auto patient = world.with_timeout(kLong);
  const auto file = save_file(job);
  std::optional<Progress> progress;
  agree(world, [&] {
    if (is_first(world)) check_files(job, file);
  });
  const auto seed = choose_seed(world, job.options.base_seed, device);
  if (is_first(world)) {
    progress.emplace(out, style_of(STDERR_FILENO));
    fmt::print(out, "{}; {} {}, seed {}\n", describe(job.degrees), device.str(), c10::toString(job.dtype),
               seed);
  }
  auto* shown = progress ? &*progress : nullptr;

  const auto text = embed_text(patient, job, device, shown);
  const auto latents = denoise(world, job, transformer, text, seed, device, shown);
  agree(patient, [&] {
    if (!is_first(world)) return;
    const auto frames = decode(job, latents, device, *progress);
    write_files(job, file, seed, text, latents, frames);
    fmt::print(out, "{}\n", file.string());
  });
}

}  // namespace wan
