#pragma once
#include <wanpar/core/communicator.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>

#include "wan/vae/decoder.hpp"

namespace wan {

/// Whether so many ranks can each have a band of latents with so many rows and columns.
inline bool has_bands(int64_t rows, int64_t columns, int64_t ranks) {
  return std::max(rows, columns) >= ranks;
}

/// Collective. vae->decode() of latents that all ranks have alike: each decodes a band of their columns, or
/// of their rows where there are more of those, and is sent what it sees of its neighbours'. All have all
/// frames. Throws Error on every rank where decode() does.
at::Tensor decode_by_bands(const wanpar::Communicator& group, Vae vae, const at::Tensor& latents,
                           const std::function<void(int64_t done, int64_t all)>& progress = {});

}  // namespace wan
