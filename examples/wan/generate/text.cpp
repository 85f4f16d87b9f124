#include "wan/generate/text.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

#include <algorithm>

#include "wan/generate/load_sharded.hpp"
#include "wan/generate/phase.hpp"
#include "wan/text/encode.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/umt5.hpp"

namespace wan {
namespace {

/// Texts per batch: larger batches are not faster, and attention biases grow with them.
constexpr size_t kTogether = 8;
constexpr const char* kPhase = "encoding the text";

at::Tensor encode(const Job& job, const wanpar::Model& encoder, Progress* progress) {
  const auto most = job.checkpoint.transformer_config().text_len;
  const auto count = job.texts.size();
  std::vector<at::Tensor> parts;
  for (size_t first = 0; first < count; first += kTogether) {
    const auto last = std::min(first + kTogether, count);
    std::vector<std::vector<int64_t>> part;
    for (size_t i = first; i < last; ++i) part.push_back(cut(job.texts[i], most));
    parts.push_back(encode_text(encoder, part, most).to(at::kFloat));
    if (!parts.back().isfinite().all().item<bool>())
      throw wanpar::Error(
          fmt::format("the text encoder makes NaN or infinity of the prompts, in {}: its weights are "
                      "damaged{}",
                      name_of(job.dtype),
                      job.dtype == at::kFloat ? "; download them again" : ", or want --dtype float32"));
    if (progress) progress->update(static_cast<int64_t>(last));
  }
  return at::cat(parts);
}

LoadOptions encoder_options(const Job& job, at::Device device) {
  return {
      .dtype = job.dtype, .device = job.options.t5_cpu ? at::Device(at::kCPU) : device, .loaded = job.loaded};
}

Umt5 load_whole(const Job& job, const LoadOptions& options) {
  Umt5 encoder(job.checkpoint.text_encoder_config());
  load(*encoder, job.checkpoint.text_encoder(), options);
  return encoder;
}

}  // namespace

void load_text_encoder(const wanpar::Communicator& world, const Job& job, at::Device device,
                       std::optional<wanpar::Model>& kept) {
  if (kept) return;
  const auto options = encoder_options(job, device);
  if (job.options.t5_fsdp)
    kept = load_sharded<Umt5>(world, world, job.checkpoint.text_encoder_config(),
                              job.checkpoint.text_encoder(), options);
  else if (world.rank() == 0)
    kept = load_whole(job, options);
}

at::Tensor embed_texts(const wanpar::Communicator& world, const Job& job, at::Device device,
                       Progress* progress, std::optional<wanpar::Model>* kept) {
  const auto count = static_cast<int64_t>(job.texts.size());
  const auto& config = job.checkpoint.transformer_config();
  if (progress) progress->start("text", count);

  std::optional<wanpar::Model> own;
  auto& encoder = kept ? *kept : own;
  at::Tensor embeds;
  if (job.options.t5_fsdp) {
    load_text_encoder(world, job, device, encoder);
    all_in_phase(world, kPhase, [&] { embeds = encode(job, *encoder, progress); });
    return embeds;
  }
  embeds = at::empty({count, config.text_len, config.text_dim}, at::dtype(at::kFloat).device(device));
  all_in_phase(world, kPhase, [&] {
    if (world.rank() != 0) return;
    load_text_encoder(world, job, device, encoder);
    embeds = encode(job, *encoder, progress).to(device);
  });
  return world.broadcast(embeds, 0).get();
}

}  // namespace wan
