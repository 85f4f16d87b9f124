#pragma once
#include <ATen/ops/full.h>

#include <utility>

#include "wan/pipeline/sampling.hpp"

namespace wan {

/// A model's velocity under texts [batch, text_len, text_dim], one for each sample. The model is anything
/// that is called with latents [batch, channels, T, H, W], timestep [batch] and text, a wrapped one as well.
template <class Model>
Velocity conditioned(Model model, at::Tensor text) {
  return
      [model = std::move(model), text = std::move(text)](const at::Tensor& latents, double timestep) mutable {
        return model(latents, at::full({latents.size(0)}, timestep, latents.options()), text);
      };
}

/// Classifier-free guidance: negative + scale * (positive - negative). At scale 1 the negative is not asked.
Velocity guided(Velocity positive, Velocity negative, double scale);

/// The same by one call a step: `both` gives the velocities of a batch of two, the first under the positive
/// text and the second under the negative. For a model that fetches its weights for every call.
Velocity guided_at_once(Velocity both, double scale);

}  // namespace wan
