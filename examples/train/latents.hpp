#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <ostream>
#include <vector>
#include <wanpar/core/communicator.hpp>

#include "train/shapes.hpp"
#include "wan/config.hpp"
#include "wan/io/weights.hpp"

namespace wan::train {

/// A VAE as its training left it in `folder`/checkpoint/vae.
struct TrainedVae {
  VaeConfig config;
  Weights weights;
};
TrainedVae read_vae(const std::filesystem::path& folder);

/// The latents of the first scenes of a world, encoded once.
struct Latents {
  at::Tensor values;              ///< [clips, channels, T, h, w], normalised, float16, on the device
  std::vector<double> mean, std;  ///< of each channel before that
};

/// Collective. Each rank encodes a part, and all have all. What `file` holds is taken where it was made of
/// the same `source`, a text that says all it depends on.
Latents encode_scenes(const wanpar::Communicator& world, const TrainedVae& vae, const View& clip,
                      uint64_t seed, int64_t clips, at::Device device, const std::filesystem::path& file,
                      const std::string& source, std::ostream& log);

}  // namespace wan::train
