#pragma once
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "train/captions.hpp"
#include "train/latents.hpp"
#include "train/random.hpp"
#include "train/task.hpp"
#include "wan/config.hpp"
#include "wan/text/tokenizer.hpp"

namespace wan::train {

struct FlowTaskOptions {
  uint64_t seed = 0;
  at::Device device = at::kCPU;
  double shift = 3;              ///< of the noise levels, and of the schedule that samples are made by
  double caption_dropout = 0.1;  ///< captions in whose place nothing is said, or Wan's negative prompt
  std::optional<double> pairs;   ///< share of the samples that show two objects; none: as scenes come
  int64_t sample_steps = 20;
  double guidance = 4;
  std::vector<std::string> prompts = {
      "a red ball moves left on a dark blue background", "a yellow square moves up on a black background",
      "a purple triangle moves right on a grey background",
      "a green ball moves down and a white square moves right on a brown background"};
};

/// Trains text encoder and transformer to tell the velocity, noise minus latents, of latents of which a part
/// sigma is noise: flow matching, Lipman et al. 2023, with sigma uniform but for the shift.
class FlowTask : public Task {
 public:
  FlowTask(TextEncoderConfig text_encoder, TransformerConfig transformer, TrainedVae vae, Latents latents,
           Tokenizer tokenizer, FlowTaskOptions options);

  std::vector<std::string> names() const override { return {"loss"}; }
  std::vector<at::Tensor> losses(Trainee& trainee, const Share& share) override;
  /// Writes samples_STEP.png, a row of frames for each prompt.
  std::string sample(Trainee& trainee, const wanpar::Communicator& world, int64_t step,
                     const std::filesystem::path& folder) override;
  /// All of a checkpoint but its tokenizer, the VAE among it.
  void write(const NamedTensors& weights, const std::filesystem::path& checkpoint) override;

 private:
  /// The number of a clip.
  int64_t choose(Random& random) const;

  TextEncoderConfig text_encoder_;
  TransformerConfig transformer_;
  TrainedVae vae_;
  Latents latents_;
  Tokenizer tokenizer_;
  FlowTaskOptions options_;
  std::vector<int64_t> single_, pairs_;  ///< numbers of the clips with one object, and with two
  Tokens captions_;  ///< of each clip; behind them of an empty text, and of Wan's negative prompt
};

}  // namespace wan::train
