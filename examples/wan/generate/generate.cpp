#include "wan/generate/generate.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ostream.h>
#include <unistd.h>

#include <optional>
#include <random>

#include "wan/generate/deal.hpp"
#include "wan/generate/decode.hpp"
#include "wan/generate/denoise.hpp"
#include "wan/generate/outputs.hpp"
#include "wan/generate/phase.hpp"
#include "wan/generate/text.hpp"
#include "wan/generate/transformer.hpp"
#include "wan/io/progress.hpp"

namespace wan {
namespace {

/// The requested seed, or one that rank 0 draws; equal on every rank.
uint64_t choose_seed(const wanpar::Communicator& world, const std::optional<uint64_t>& wanted,
                     at::Device device) {
  if (wanted) return *wanted;
  auto drawn = at::tensor({static_cast<int64_t>(std::random_device()() & 0x7fffffff)}).to(device);
  return static_cast<uint64_t>(world.broadcast(drawn, 0).get().item<int64_t>());
}

/// `2 ranks: …; cpu Float, seed 7`
std::string describe(const Job& job, at::Device device, uint64_t seed) {
  const auto sharded = [](bool is, const char* what) { return is ? fmt::format(", {} sharded", what) : ""; };
  return fmt::format(
      "{}{}{}; {} {}, seed {}", describe(job.degrees), sharded(job.options.dit_fsdp, "transformer"),
      sharded(job.options.t5_fsdp, "text encoder"), device.str(), c10::toString(job.dtype), seed);
}

/// The ranks that generate a video together: a data-parallel group, whose first rank writes it.
wanpar::Communicator makers_of(const wanpar::Mesh& mesh) {
  return mesh.flatten({"cfg", "pipeline", "patch", "ring", "ulysses"});
}

}  // namespace

void generate(const wanpar::Communicator& world, const Job& job, SharedTransformer& shared, at::Device device,
              std::ostream& out, std::ostream& results) {
  const at::NoGradGuard no_grad;
  const wanpar::Mesh mesh(world, axes_of(job.degrees));
  const Deal deal{.prompts = static_cast<int64_t>(job.prompts.size()),
                  .groups = mesh.size("data"),
                  .group = mesh.index("data")};
  const auto makers = makers_of(mesh);
  const bool is_writer = makers.rank() == 0;
  const auto outputs = outputs_of(job);
  all_in_phase(world, "looking at its outputs", [&] {
    if (world.rank() == 0) check_apart(job, outputs);
    for (int64_t round = 0; round < deal.rounds() && is_writer; ++round)
      if (const auto prompt = deal.prompt(round)) check_writable(job, outputs[*prompt]);
  });

  const auto seed = choose_seed(world, job.options.base_seed, device);
  std::optional<ShownProgress> shown;
  if (world.rank() == 0) {
    shown.emplace(out, style_of(STDERR_FILENO));
    fmt::print(out, "{}\n", describe(job, device, seed));
    for (const auto& note : job.notes) fmt::print(out, "note: {}\n", note);
    out.flush();
  }
  auto* progress = shown ? &*shown : nullptr;

  at::Tensor texts, noise;
  in_phase(world, "encoding the text", [&] { texts = embed_texts(world, job, device, progress); });
  all_in_phase(world, "drawing the noise", [&] { noise = first_latents(job, seed).to(device); });
  std::optional<ParallelTransformer> transformer;
  in_phase(world, "loading the transformer",
           [&] { transformer.emplace(parallel_transformer(mesh, job, shared, device)); });
  const auto step_done = [&](const Step& step) {
    if (progress) progress->update(step.number);
  };
  for (int64_t round = 0; round < deal.rounds(); ++round) {
    const auto prompt = deal.prompt(round);
    Result result;
    // Gathering sharded weights is collective, so a group without further prompts repeats one.
    if (prompt || job.options.dit_fsdp) {
      const auto index = prompt.value_or(0);
      result.texts = at::stack({texts[index], texts[-1]});
      const auto which = deal.prompts > 1 ? fmt::format("prompt {}: ", index + 1) : "";
      if (progress) progress->start(which + "denoise", job.options.sample_steps);
      in_phase(world, "denoising",
               [&] { result.latents = denoise(mesh, job, *transformer, noise, result.texts, step_done); });
    }
    if (transformer->patches) {
      if (progress && job.options.stats) fmt::print(out, "{}", transformer->patches->status().text());
      transformer->patches->synchronize();
    }
    if (round + 1 == deal.rounds()) transformer.reset();  // free its memory for decoding
    all_in_phase(world, "decoding and writing the video", [&] {
      if (!prompt) return;
      result.frames = decode(makers, job, result.latents, device, progress);
      if (!is_writer) return;
      write(job, outputs[*prompt], job.prompts[*prompt], seed, result);
      results << outputs[*prompt].video.string() + "\n" << std::flush;
    });
  }
}

}  // namespace wan
