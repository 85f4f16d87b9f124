#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "train/shapes.hpp"
#include "train/task.hpp"
#include "wan/config.hpp"

namespace wan::train {

struct VaeTaskOptions {
  uint64_t seed = 0;
  at::Device device = at::kCPU;
  View clip = {};         ///< what is encoded in the end: a whole clip
  int64_t side = 64;      ///< what is trained on: a window of it, this many pixels wide
  int64_t frames = 9;     ///< and frames long, 4n + 1
  double noise = 0.03;    ///< standard deviation of what is added to the latents
  double penalty = 3e-4;  ///< weight of the latents' square
  double edges = 0.5;     ///< weight of the error's differences between neighbouring pixels
  int64_t samples = 4;    ///< unseen clips that are tried
};

/// Trains the VAE on windows of clips: the mean error, its square, and that of edges.
class VaeTask : public Task {
 public:
  VaeTask(VaeConfig config, VaeTaskOptions options) : config_(std::move(config)), options_(options) {}

  std::vector<std::string> names() const override {
    return {"loss", "square_error", "edges", "latents_square"};
  }
  std::vector<at::Tensor> losses(Trainee& trainee, const Share& share) override;
  /// Writes samples_STEP.png, clips above what became of them; tells the PSNR.
  std::string sample(Trainee& trainee, const wanpar::Communicator& world, int64_t step,
                     const std::filesystem::path& folder) override;
  void write(const NamedTensors& weights, const std::filesystem::path& checkpoint) override;

 private:
  VaeConfig config_;
  VaeTaskOptions options_;
};

/// In decibels, of frames in [-1, 1], for each clip.
at::Tensor psnr(const at::Tensor& frames, const at::Tensor& expected);

/// Scenes that no training has seen begin here.
constexpr uint64_t kUnseen = uint64_t{1} << 40;

}  // namespace wan::train
