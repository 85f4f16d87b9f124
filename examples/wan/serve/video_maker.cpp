#include "wan/serve/video_maker.hpp"

#include <fmt/format.h>

#include "wan/generate/decode.hpp"
#include "wan/generate/denoise.hpp"
#include "wan/generate/phase.hpp"
#include "wan/generate/text.hpp"
#include "wan/serve/fields.hpp"

namespace wan::serve {
namespace {

/// What jobs must have alike for the ranks to stay where they are: degrees, sharding, and how patches are
/// dealt, which follows from the video's size too.
std::string places_of(const Job& job, int64_t ranks) {
  auto settings = settings_of(job, ranks, 0, false);
  for (const auto* other :
       {"prompt", "negative_prompt", "fps", "guidance_scale", "flow_shift", "sample_solver"})
    settings.erase(other);
  if (job.degrees.patch == 1)
    for (const auto* other : {"size", "num_frames", "num_inference_steps"}) settings.erase(other);
  return settings.dump();
}

bool is_whole(const Job& job) { return !job.options.dit_fsdp && job.degrees.pipeline == 1; }

}  // namespace

/// Collective. Takes the places that the job wants; whether this rank has one.
bool VideoMaker::meet(const Job& job, int64_t ranks) {
  const auto wanted = places_of(job, ranks);
  if (places_ != wanted) {
    if (!is_whole(job)) whole_ = Transformer(nullptr);
    part();
    const bool has_place = world_.rank() < ranks;
    const auto group = world_.split(has_place ? 0 : 1);
    if (has_place) team_.emplace(Team{group, wanpar::Mesh(group, axes_of(job.degrees))});
    places_ = wanted;
  }
  if (!team_) return false;
  const auto encoder = fmt::format("{} of {}", job.options.t5_fsdp, job.options.t5_fsdp ? ranks : 1);
  if (text_encoder_of_ != encoder) text_encoder_.reset();
  text_encoder_of_ = encoder;
  return true;
}

void VideoMaker::load_transformer(const Job& job) {
  if (team_->transformer) return;
  in_phase(team_->group, "loading the transformer", [&] {
    team_->transformer.emplace(parallel_transformer(team_->mesh, job, shared_, device_));
    if (is_whole(job) && are_kept_) whole_ = shared_.get();
  });
}

void VideoMaker::load(const Job& job, int64_t ranks) {
  const at::NoGradGuard no_grad;
  if (!meet(job, ranks) || !are_kept_) return;
  const auto& group = team_->group;
  in_phase(group, "loading the text encoder",
           [&] { wan::load_text_encoder(group, job, device_, text_encoder_); });
  load_transformer(job);
  all_in_phase(group, "loading the VAE", [&] { vae_ = load_vae(job, device_); });
}

void VideoMaker::make(const Job& job, int64_t ranks, uint64_t seed, const Watch& watch) {
  const at::NoGradGuard no_grad;
  if (!meet(job, ranks)) return;
  try {
    make_here(job, seed, watch);
  } catch (...) {
    if (!are_kept_) team_->transformer.reset(), text_encoder_.reset(), vae_ = Vae(nullptr);
    throw;
  }
}

void VideoMaker::make_here(const Job& job, uint64_t seed, const Watch& watch) {
  const auto& group = team_->group;
  Result result;
  at::Tensor noise;
  in_phase(group, "encoding the text", [&] {
    result.texts = embed_texts(group, job, device_, watch.progress, are_kept_ ? &text_encoder_ : nullptr);
  });
  watch.stop->follow(group);
  all_in_phase(group, "drawing the noise", [&] { noise = first_latents(job, seed).to(device_); });
  if (watch.progress && !team_->transformer) watch.progress->start("load", 1);
  load_transformer(job);
  auto& transformer = *team_->transformer;
  if (watch.progress) watch.progress->start("denoise", job.options.sample_steps);
  const auto step_done = [&](const Step& step) {
    watch.stepped(step);
    if (watch.progress) watch.progress->update(step.number);
    watch.stop->follow(group);
  };
  const auto forget_patches = [&] {
    if (transformer.patches) transformer.patches->synchronize();
  };
  try {
    in_phase(group, "denoising", [&] {
      result.latents = denoise(team_->mesh, job, transformer, noise, result.texts, step_done);
    });
  } catch (const Stopped&) {
    forget_patches();
    throw;
  }
  forget_patches();
  if (!are_kept_) team_->transformer.reset();  // decoding may want its memory
  all_in_phase(group, "decoding and writing the video", [&] {
    result.frames =
        decode(group, job, result.latents, device_, watch.progress, are_kept_ ? &vae_ : nullptr, watch.stop);
    if (group.rank() == 0) watch.finished(result);
  });
}

}  // namespace wan::serve
