#include "train/options.hpp"

#include <fmt/ranges.h>

#include <limits>

#include "wan/cli/about.hpp"
#include "wan/cli/device.hpp"
#include "wan/cli/flag.hpp"
#include "wan/cli/words.hpp"

namespace wan::train {
namespace po = boost::program_options;
namespace {

constexpr int64_t kMost = 1'000'000'000;
constexpr Count kSteps = {1, kMost, "no training takes more", "10000"};
constexpr Count kEvery = {1, kMost, "it counts steps", "200"};
constexpr Count kSeed = {0, std::numeric_limits<int64_t>::max(), "it numbers random worlds", "0"};
constexpr Count kSide = {16, 16384, "it counts pixels, and H.264 holds no more", "128"};
constexpr Count kWindow = {8, 16384, "it counts pixels, and a latent has 8", "64"};
constexpr Count kFrames = {1, 4093, "the model has positions for 1024 latent frames", "17"};
constexpr Count kClips = {1, 10'000'000, "their latents are kept in memory", "2000"};
constexpr Count kSamples = {1, 10'000, "they are kept in memory", "4"};
constexpr Count kBatch = {1, 1'000'000, "they are drawn for each step", "8"};
constexpr Count kParts = {1, 1'000'000, "each has a sample at least", "2"};
constexpr Count kVaeWidth = {2, 16384, "it counts channels", "16"};
constexpr Count kVaeBlocks = {1, 64, "no VAE has more", "1"};
constexpr Count kWidth = {4, 1 << 20, "it counts channels", "128"};
constexpr Count kFew = {1, 1024, "no transformer has more", "6"};
constexpr Amount kShift = {0.001, 1000, "beyond it the noise levels fall together", "3"};
constexpr Amount kShare = {0, 0.999999, "it is a share, and something has to be left", "0.1"};
constexpr Amount kRate = {1e-9, 10, "beyond it nothing is learnt", "0.001"};
constexpr Amount kNorm = {1e-9, 1e9, "it bounds a norm", "1"};
constexpr Amount kSeconds = {0.1, 1e9, "it is in seconds", "3600"};

po::options_description flags() {
  po::options_description run("The run");
  run.add_options()                                                                   //
      ("task", text("NAME"), "vae, or t2v: text encoder and transformer; required")   //
      ("output_dir", text("DIR"), "where all is written; a run found there goes on")  //
      ("init", text("DIR"), "begin with the weights of the run in this folder")       //
      ("vae", text("DIR"), "t2v: the folder of the VAE's run; required")              //
      ("seconds", text("X"), "stop after that time, to be resumed")                   //
      ("save_every", text("N"), "steps between checkpoints (default 200)")            //
      ("sample_every", text("N"), "steps between samples (default 1000)")             //
      ("print_every", text("N"), "steps between lines of progress (default 20)");

  po::options_description data("Data");
  data.add_options()                                                                          //
      ("base_seed", text("N"), "of data, noise and first weights (default 0)")                //
      ("frame_size", text("N"), "height and width of clips, a multiple of 16 (default 128)")  //
      ("frame_num", text("N"), "frames of clips, 4n+1 (default 17)")                          //
      ("crop_size", text("N"), "vae: pixels of a window, a multiple of 8 (default 64)")       //
      ("crop_frames", text("N"), "vae: frames of a window, 4n+1 (default 9)")                 //
      ("clips", text("N"), "t2v: how many are encoded, and trained on (default 2000)")        //
      ("pairs", text("X"), "t2v: share of samples with two objects (default: as they come)")  //
      ("samples", text("N"), "vae: unseen clips that are tried (default 4)");

  po::options_description model("Model");
  model.add_options()                                                                        //
      ("vae_dim", text("N"), "the VAE's width at full resolution (default 16)")              //
      ("vae_blocks", text("N"), "the VAE's residual blocks at each resolution (default 1)")  //
      ("dim", text("N"), "the transformer's width (default 192)")                            //
      ("heads", text("N"), "its attention heads (default 6)")                                //
      ("layers", text("N"), "its layers (default 7)")                                        //
      ("text_dim", text("N"), "the text encoder's width (default 128)")                      //
      ("text_layers", text("N"), "its layers (default 2)")                                   //
      ("sample_shift", text("X"), "flow shift (default 3)")                                  //
      ("caption_dropout", text("X"), "captions left out, for guidance (default 0.1)");

  po::options_description optimizer("Optimizer");
  optimizer.add_options()                                                                   //
      ("steps", text("N"), "of the optimizer (default 10000)")                              //
      ("batch_size", text("N"), "samples a step, of all ranks together (default 8)")        //
      ("accumulate", text("N"), "parts in which a rank computes its samples (default 1)")   //
      ("learning_rate", text("X"), "at its highest (default 0.001)")                        //
      ("warm_up", text("N"), "steps up to there (default 100); then it falls by a cosine")  //
      ("weight_decay", text("X"), "of AdamW (default 0.01)")                                //
      ("clip_grad", text("X"), "largest norm of the gradient (default 1)")                  //
      ("ema", text("X"), "what stays of the average weights each step (default 0.999)");

  po::options_description machine("Machine");
  machine.add_options()                                                                      //
      ("local_ranks", text("N"), "ranks as threads of this process (default 1)")             //
      ("data_parallel_size", text("N"), "models; each is shared by ranks/N (default: all)")  //
      ("shard", text("NAME"), "none, grad or full: what ranks share (default none)")         //
      ("activation_checkpointing", switched(), "t2v: blocks run once more in backward, for memory");
  add_device_flags(machine, "cpu");
  machine.add_options()                                                               //
      ("dtype", text("NAME"), "float32 (default), bfloat16 or float64")               //
      ("trace", text("FILE"), "when ranks compute, transfer and wait, for Perfetto")  //
      ("timeout", text("SECONDS"), "how long ranks wait where none is at work (default 600)");

  po::options_description all;
  all.add(run).add(data).add(model).add(optimizer).add(machine).add(about_flags());
  return all;
}

void require_multiple(const char* flag, int64_t value, int64_t of) {
  if (value % of != 0) refuse("--{} {} must be a multiple of {}", flag, value, of);
}

void require_frames(const char* flag, int64_t frames) {
  if (frames % 4 != 1) refuse("--{} {} is not of the form 4n+1; take {}", flag, frames, frames / 4 * 4 + 1);
}

void check_sizes(const Options& options) {
  require_multiple("frame_size", options.frame_size, 16);
  require_multiple("crop_size", options.crop_size, 8);
  require_frames("frame_num", options.frame_num);
  require_frames("crop_frames", options.crop_frames);
  const bool fits = options.crop_size <= options.frame_size && options.crop_frames <= options.frame_num;
  if (options.task == Options::What::vae && !fits)
    refuse("--crop_size {} and --crop_frames {} must fit into --frame_size {} and --frame_num {}",
           options.crop_size, options.crop_frames, options.frame_size, options.frame_num);
  if (const auto pairs = 2 * options.transformer.heads; options.transformer.dim % pairs != 0)
    refuse("--dim {} must be a multiple of {}, of two channels for each of --heads {}",
           options.transformer.dim, pairs, options.transformer.heads);
}

at::ScalarType dtype_of(const std::string& name) {
  return name == "bfloat16" ? at::kBFloat16 : name == "float64" ? at::kDouble : at::kFloat;
}

Shard shard_of(const std::string& name) {
  return name == "full" ? Shard::full : name == "grad" ? Shard::grad : Shard::none;
}

About about() {
  return {.program = "wan_train",
          .summary = "trains a model of the Wan architecture on clips of moving shapes, on one rank or many",
          .usage =
              "  wan_train --task vae --output_dir runs/vae --local_ranks 2\n"
              "  wan_train --task t2v --output_dir runs/t2v --vae runs/vae --local_ranks 2\n"
              "  torchrun --no-python --nproc-per-node 4 wan_train --task t2v --shard full ...\n",
          .flags = flags()};
}

Options read(const Words& words) {
  Options o;
  const auto count = [&](const char* flag, int64_t& value, const Count& range) {
    value = words.count(flag, range).value_or(value);
  };
  const auto amount = [&](const char* flag, double& value, const Amount& range) {
    value = words.amount(flag, range).value_or(value);
  };
  words.require("task", "vae");
  words.require("output_dir", "runs/vae");
  o.task = words.one_of("task", {"vae", "t2v"}) == "vae" ? Options::What::vae : Options::What::t2v;
  if (o.task == Options::What::t2v) words.require("vae", "runs/vae");
  o.output_dir = words.text("output_dir");
  o.init = words.text("init");
  o.vae = words.text("vae");
  o.seed = static_cast<uint64_t>(words.count("base_seed", kSeed).value_or(0));

  count("frame_size", o.frame_size, kSide);
  count("frame_num", o.frame_num, kFrames);
  count("crop_size", o.crop_size, kWindow);
  count("crop_frames", o.crop_frames, kFrames);
  count("clips", o.clips, kClips);
  count("samples", o.samples, kSamples);
  count("vae_dim", o.vae_config.base_dim, kVaeWidth);
  count("vae_blocks", o.vae_config.residual_blocks, kVaeBlocks);
  count("dim", o.transformer.dim, kWidth);
  count("heads", o.transformer.heads, kFew);
  count("layers", o.transformer.layers, kFew);
  o.transformer.ffn_dim = 4 * o.transformer.dim;
  count("text_dim", o.text_encoder.dim, kWidth);
  count("text_layers", o.text_encoder.layers, kFew);
  o.text_encoder.head_dim = o.text_encoder.dim / o.text_encoder.heads;
  o.text_encoder.ffn_dim = 2 * o.text_encoder.dim;
  o.transformer.text_dim = o.text_encoder.dim;
  amount("sample_shift", o.shift, kShift);
  amount("caption_dropout", o.caption_dropout, kShare);
  o.pairs = words.amount("pairs", kShare);

  count("steps", o.schedule.steps, kSteps);
  count("warm_up", o.schedule.warm_up, kSteps);
  count("batch_size", o.batch_size, kBatch);
  count("accumulate", o.accumulate, kParts);
  amount("learning_rate", o.schedule.rate, kRate);
  amount("clip_grad", o.clip_grad, kNorm);
  amount("weight_decay", o.adamw.weight_decay, kShare);
  amount("ema", o.ema, kShare);
  count("save_every", o.save_every, kEvery);
  count("sample_every", o.sample_every, kEvery);
  count("print_every", o.print_every, kEvery);
  o.seconds = words.amount("seconds", kSeconds);

  count("local_ranks", o.local_ranks, kLocalRanks);
  o.data_parallel_size = words.count("data_parallel_size", kDegree);
  o.shard = shard_of(words.one_of("shard", {"none", "grad", "full"}).value_or("none"));
  o.activation_checkpointing = *words.truth("activation_checkpointing");
  o.device = read_device(words).value_or(o.device);
  o.dtype = dtype_of(words.one_of("dtype", {"float32", "bfloat16", "float64"}).value_or("float32"));
  amount("timeout", o.timeout, kTimeout);
  o.trace = words.text("trace");
  check_sizes(o);
  return o;
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  const Words words(arguments, flags(), "wan_train");
  return options_or_answer(words, about(), read);
}

int64_t Options::replicas(int ranks) const {
  return data_parallel_size.value_or(shard == Shard::none ? ranks : 1);
}

void check_ranks(const Options& options, int ranks) {
  const auto replicas = options.replicas(ranks);
  if (ranks % replicas != 0) refuse("--data_parallel_size {} does not divide the {} ranks", replicas, ranks);
  if (options.shard == Shard::none && replicas != ranks)
    refuse("--data_parallel_size {} of {} ranks leaves ranks that share a model; add --shard grad or full",
           replicas, ranks);
  if (const auto parts = ranks * options.accumulate; options.batch_size % parts != 0)
    refuse("--batch_size {} must be a multiple of {}: {} ranks times --accumulate {}", options.batch_size,
           parts, ranks, options.accumulate);
}

std::string Options::settings() const {
  std::string text = fmt::format("task {}\nbase_seed {}\nframe_size {}\nframe_num {}\n",
                                 task == What::vae ? "vae" : "t2v", seed, frame_size, frame_num);
  if (task == What::vae)
    text += fmt::format("crop_size {}\ncrop_frames {}\nvae_dim {}\nvae_blocks {}\n", crop_size, crop_frames,
                        vae_config.base_dim, vae_config.residual_blocks);
  else
    text += fmt::format(
                "clips {}\ndim {}\nheads {}\nlayers {}\ntext_dim {}\ntext_layers {}\nsample_shift "
                "{}\ncaption_dropout {}\n",
                clips, transformer.dim, transformer.heads, transformer.layers, text_encoder.dim,
                text_encoder.layers, shift, caption_dropout) +
            (pairs ? fmt::format("pairs {}\n", *pairs) : std::string());
  return text +
         fmt::format(
             "steps {}\nbatch_size {}\nlearning_rate {}\nwarm_up {}\nweight_decay {}\nclip_grad {}\nema {}\n"
             "dtype {}\n",
             schedule.steps, batch_size, schedule.rate, schedule.warm_up, adamw.weight_decay, clip_grad, ema,
             c10::toString(dtype));
}

std::string described(const Options& options, const std::string& version) {
  return options.settings() +
         fmt::format(
             "output_dir {}\ninit {}\nvae {}\nsamples {}\naccumulate {}\nsave_every {}\nsample_every {}\n"
             "shard {}\ndata_parallel_size {}\nactivation_checkpointing {}\ndevice {}\nversion {}\n",
             options.output_dir.string(), options.init.string(), options.vae.string(), options.samples,
             options.accumulate, options.save_every, options.sample_every, static_cast<int>(options.shard),
             options.data_parallel_size.value_or(0), options.activation_checkpointing, options.device,
             version);
}

}  // namespace wan::train
