#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/model.hpp>

#include <optional>

#include "wan/generate/job.hpp"
#include "wan/io/progress.hpp"

namespace wan {

/// Collective. The embeddings [prompts + 1, text_len, text_dim] of the job's prompts, followed by its
/// negative prompt, float32, on every rank. Only rank 0 holds the encoder and encodes; with --t5_fsdp it is
/// sharded over all ranks, and all encode. `progress` is rank 0's. If `kept` is given, the encoder is taken
/// from there, and left there for the next job.
at::Tensor embed_texts(const wanpar::Communicator& world, const Job& job, at::Device device,
                       Progress* progress, std::optional<wanpar::Model>* kept = nullptr);

/// Collective. Loads the text encoder as embed_texts() does, without encoding.
void load_text_encoder(const wanpar::Communicator& world, const Job& job, at::Device device,
                       std::optional<wanpar::Model>& kept);

}  // namespace wan
