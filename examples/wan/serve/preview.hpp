#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "wan/vae/decoder.hpp"

namespace wan::serve {

/// Small pictures of latents that are on their way: a linear map from latents to colours, which is fitted to
/// what the VAE makes of random ones, so that none of its weights need be known.
class Preview {
 public:
  /// `vae` decodes some latents.
  explicit Preview(Vae vae);

  /// A PNG of the middle frame of latents [channels, T, h, w], h times w pixels.
  std::string png(const at::Tensor& latents) const;

 private:
  at::Tensor map_;  // [channels + 1, 3], float32 on the CPU; its last row is what no latents are
};

}  // namespace wan::serve
