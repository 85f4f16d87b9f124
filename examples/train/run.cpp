#include "train/run.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <optional>
#include <utility>
#include <wanpar/core/agreement.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>

#include "train/autoencoder.hpp"
#include "train/captions.hpp"
#include "train/flow_task.hpp"
#include "train/latents.hpp"
#include "train/state.hpp"
#include "train/text_to_video.hpp"
#include "train/trainer.hpp"
#include "train/vae_task.hpp"
#include "wan/io/write_checkpoint.hpp"
#include "wan/text/tokenizer_model.hpp"

namespace wan::train {
namespace {

constexpr int64_t kVocabulary = 400;  // rows for pieces; captions need fewer

TrainerOptions trainer_options(const Options& options) {
  return {.folder = options.output_dir,
          .init = options.init,
          .batch = options.batch_size,
          .accumulate = options.accumulate,
          .schedule = options.schedule,
          .adamw = options.adamw,
          .clip = options.clip_grad,
          .average = options.ema,
          .save_every = options.save_every,
          .sample_every = options.sample_every,
          .print_every = options.print_every,
          .seconds = options.seconds,
          .settings = options.settings()};
}

/// In float64 the weights are float64; bfloat16 is what a float32 network computes in.
at::ScalarType weights_dtype(const Options& options) {
  return options.dtype == at::kDouble ? at::kDouble : at::kFloat;
}

void train_vae(const wanpar::Mesh& mesh, const Options& options, at::Device device,
               const std::atomic<bool>& stop, std::ostream& log) {
  Autoencoder autoencoder(options.vae_config);
  autoencoder->initialize(options.seed);
  autoencoder->to(device, weights_dtype(options));
  const auto trainee = make_trainee(Network(autoencoder), mesh, options.shard, options.dtype);
  VaeTask task(options.vae_config, {.seed = options.seed,
                                    .device = device,
                                    .clip = whole_view(options.frame_size, options.frame_num),
                                    .side = options.crop_size,
                                    .frames = options.crop_frames,
                                    .samples = options.samples});
  train(*trainee, task, mesh.world(), trainer_options(options), stop, log);
}

/// Collective. A checkpoint's own tokenizer, made where there is none: of the vocabulary of that run whose
/// weights are taken, for these belong to its ids, else of captions.
Tokenizer tokenizer_of(const wanpar::Communicator& world, const Options& options) {
  const auto model_in = [](const std::filesystem::path& run) {
    return run / "checkpoint" / "tokenizer" / "spiece.model";
  };
  const auto file = model_in(options.output_dir);
  wanpar::all_or_none(world, [&] {
    if (world.rank() != 0 || std::filesystem::exists(file)) return;
    if (std::filesystem::exists(state_file(options.output_dir)))
      throw wanpar::Error(
          fmt::format("{} is missing, the vocabulary with which this run began; put it back, "
                      "or begin another run",
                      file.string()));
    write_tokenizer(options.output_dir / "checkpoint",
                    options.init.empty() ? caption_vocabulary(options.seed)
                                         : read_sentencepiece(model_in(options.init)).pieces);
  });
  std::optional<Tokenizer> tokenizer;
  wanpar::all_or_none(world, [&] {
    tokenizer.emplace(file);
    if (tokenizer->size() > kVocabulary)
      throw wanpar::Error(fmt::format("{} has {} pieces, and the text encoder takes {}", file.string(),
                                      tokenizer->size(), kVocabulary));
  });
  return std::move(*tokenizer);
}

void train_t2v(const wanpar::Mesh& mesh, const Options& options, at::Device device,
               const std::atomic<bool>& stop, std::ostream& log) {
  const auto& world = mesh.world();
  auto tokenizer = tokenizer_of(world, options);
  TrainedVae vae;
  wanpar::all_or_none(world, [&] { vae = read_vae(options.vae); });
  double sum = 0;
  for (const auto& [name, entry] : vae.weights)
    sum += entry.tensor.to(at::kDouble).abs().sum().item<double>();
  const auto source =
      fmt::format("{} scenes of {} pixels and {} frames from seed {}, weights that add up to {}",
                  options.clips, options.frame_size, options.frame_num, options.seed, sum);
  auto latents =
      encode_scenes(world, vae, whole_view(options.frame_size, options.frame_num), options.seed,
                    options.clips, device, options.output_dir / "latents.safetensors", source, log);

  auto text_encoder = options.text_encoder;
  text_encoder.vocabulary = kVocabulary;
  auto transformer = options.transformer;
  transformer.in_channels = transformer.out_channels = vae.config.channels;
  TextToVideo model(text_encoder, transformer);
  model->initialize(options.seed);
  model->to(device, weights_dtype(options));
  Network network(model);
  if (options.activation_checkpointing) network = network | wanpar::activation_checkpointing();
  const auto trainee = make_trainee(network, mesh, options.shard, options.dtype, kFloat32Parameters);
  FlowTask task(text_encoder, transformer, vae, std::move(latents), std::move(tokenizer),
                {.seed = options.seed,
                 .device = device,
                 .shift = options.shift,
                 .caption_dropout = options.caption_dropout,
                 .pairs = options.pairs});
  train(*trainee, task, world, trainer_options(options), stop, log);
}

}  // namespace

void run(const wanpar::Communicator& world, const Options& options, at::Device device,
         const std::atomic<bool>& stop, std::ostream& log) {
  const auto mesh = training_mesh(world, options.replicas(world.size()));
  const auto train_it = options.task == Options::What::vae ? train_vae : train_t2v;
  train_it(mesh, options, device, stop, log);
}

}  // namespace wan::train
