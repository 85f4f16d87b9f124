#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "wan/vae/decoder.hpp"

namespace wan::serve {

/// Small pictures of intermediate latents: by a linear map from latents to colours, which is fitted to the
/// VAE's output for random latents, so that it works with any weights.
class Preview {
 public:
  /// Decodes some latents with `vae`.
  explicit Preview(Vae vae);

  /// A PNG of the middle frame of latents [channels, T, h, w], h times w pixels.
  std::string png(const at::Tensor& latents) const;

 private:
  at::Tensor map_;  // [channels + 1, 3], float32 on the CPU; its last row is the bias
};

}  // namespace wan::serve
