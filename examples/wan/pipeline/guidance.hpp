#pragma once
#include <ATen/ops/full.h>

#include <utility>

#include "wan/pipeline/sampling.hpp"

namespace wan {

/// A model's velocity under one text [1, text_len, text_dim]. The model is anything that is called with
/// latents [1, channels, T, H, W], timestep [1] and text, a wrapped one as well.
template <class Model>
Velocity conditioned(Model model, at::Tensor text) {
  return
      [model = std::move(model), text = std::move(text)](const at::Tensor& latents, double timestep) mutable {
        return model(latents, at::full({latents.size(0)}, timestep, latents.options()), text);
      };
}

/// Classifier-free guidance: negative + scale * (positive - negative). At scale 1 the negative is not asked.
Velocity guided(Velocity positive, Velocity negative, double scale);

}  // namespace wan
