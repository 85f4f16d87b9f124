#include "wan/generate/text.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <wanpar/core/agreement.hpp>

#include "wan/generate/load_sharded.hpp"
#include "wan/generate/patience.hpp"
#include "wan/text/encode.hpp"
#include "wan/text/umt5.hpp"

namespace wan {
namespace {

/// More texts at a time would not be encoded faster, and attention's biases grow with them.
constexpr size_t kTogether = 8;

std::vector<std::string> texts_of(const Job& job) {
  auto texts = job.prompts;
  texts.push_back(job.options.negative_prompt);
  return texts;
}

at::Tensor encode(const Job& job, const wanpar::Model& encoder, Progress* progress) {
  const Tokenizer tokenizer(job.checkpoint.tokenizer());
  const auto texts = texts_of(job);
  const auto count = texts.size();
  std::vector<at::Tensor> parts;
  for (size_t first = 0; first < count; first += kTogether) {
    const auto last = std::min(first + kTogether, count);
    const std::vector part(texts.begin() + static_cast<std::ptrdiff_t>(first),
                           texts.begin() + static_cast<std::ptrdiff_t>(last));
    parts.push_back(
        encode_text(encoder, tokenizer, part, job.checkpoint.transformer_config().text_len).to(at::kFloat));
    if (progress) progress->update(static_cast<int64_t>(last));
  }
  return at::cat(parts);
}

Umt5 load_whole(const Job& job, const LoadOptions& options) {
  Umt5 encoder(job.checkpoint.text_encoder_config());
  load(*encoder, job.checkpoint.text_encoder(), options);
  return encoder;
}

}  // namespace

at::Tensor embed_texts(const wanpar::Communicator& world, const Job& job, at::Device device,
                       Progress* progress) {
  const auto count = static_cast<int64_t>(job.prompts.size()) + 1;
  const auto& config = job.checkpoint.transformer_config();
  const LoadOptions options{.dtype = job.dtype, .device = device};
  const auto patient = world.with_timeout(kPatience);
  if (progress) progress->start("text", count);

  at::Tensor embeds;
  if (job.options.t5_fsdp) {
    const auto encoder = load_sharded<Umt5>(world, world, job.checkpoint.text_encoder_config(),
                                            job.checkpoint.text_encoder(), options);
    wanpar::all_or_none(patient, [&] { embeds = encode(job, encoder, progress); });
    return embeds;
  }
  embeds = at::empty({count, config.text_len, config.text_dim}, at::dtype(at::kFloat).device(device));
  wanpar::all_or_none(patient, [&] {
    if (world.rank() == 0) embeds = encode(job, load_whole(job, options), progress);
  });
  return patient.broadcast(embeds, 0).get();
}

}  // namespace wan
