#include "wan/cli/options.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "wan/cli/device.hpp"
#include "wan/cli/flag.hpp"
#include "wan/cli/words.hpp"
#include "wan/text/negative_prompt.hpp"

namespace wan {
namespace po = boost::program_options;
namespace {

constexpr int64_t kLargestSide = 16384, kMostFrames = 4093;
constexpr Count kFrames = {1, kMostFrames, "the model has positions for 1024 latent frames", "81"};
constexpr Count kSteps = {1, 1000, "the schedule has 1000 timesteps", "50"};
constexpr Count kFps = {1, 1000, "players show no more", "16"};
constexpr Count kSeed = {-1, std::numeric_limits<int64_t>::max(), "-1 draws a random one", "42"};
constexpr Amount kShift = {0.001, 1000, "beyond it the noise levels fall together", "5"};
constexpr Amount kGuideScale = {0, 100, "1 or less switches guidance off", "5"};

constexpr unsigned kLineLength = 100;  // so that help has a line for each flag

}  // namespace

std::vector<po::options_description> sections() {
  po::options_description video("What to make", kLineLength);
  video.add_options()                                                                  //
      ("prompt", text("TEXT"), "what the video shows; this or a file is required")     //
      ("prompt_file", text("FILE"), "a prompt a line; numbers mark their outputs")     //
      ("negative_prompt", text("TEXT"), "what it must not show (default: Wan's own)")  //
      ("size", text("W*H", "832*480"), "pixels, multiples of 16")                      //
      ("frame_num", text("N", "81"), "frames, 4n+1")                                   //
      ("fps", text("N", "16"), "frames a second")                                      //
      ("base_seed", text("N", "-1"), "the same seed makes the same video; -1: random");

  po::options_description model("Model and sampling", kLineLength);
  model.add_options()                                                                               //
      ("ckpt_dir", text("DIR"), "Wan2.1 checkpoint, diffusers or official folder; required")        //
      ("task", one_of({"t2v-1.3B", "t2v-14B"}), "t2v-1.3B or t2v-14B (default: the checkpoint's)")  //
      ("sample_solver", one_of(solver_names(), kSolverNames.front()),
       fmt::format("{}", fmt::join(kSolverNames, ", ")).c_str())                     //
      ("sample_steps", text("N", "50"), "denoising steps")                           //
      ("sample_shift", text("X"), "flow shift (default: the checkpoint's, else 5)")  //
      ("sample_guide_scale", text("X", "5"), "guidance; 1 or less: none")            //
      ("noise", text("FILE"), "initial latents, safetensors with key 'latents'");

  po::options_description output("Output", kLineLength);
  output.add_options()                                                                        //
      ("save_file", text("FILE"), "the mp4 (default: named after task, size, prompt, time)")  //
      ("contact_sheet", text("FILE"), "a PNG with up to 12 of the frames")                    //
      ("save_tensors", text("FILE"), "text_embeds, latents and frames as safetensors");

  po::options_description elsewhere("Elsewhere", kLineLength);
  elsewhere.add_options()("serve", text("URL"),
                          "have a running wan_serve make it, as in http://127.0.0.1:7860");

  po::options_description machine("Machine", kLineLength);
  machine.add_options()                                                                    //
      ("local_ranks", text("N", "1"), "ranks as threads of this process")                  //
      ("world_size", text("N"), "how many ranks there must be (default: any)")             //
      ("gpu_ids", text("LIST"), "CUDA devices of this host, as in 0,1,3 (default: all)")   //
      ("cfg_size", text("N"), "groups, 1 or 2, for guidance's two branches")               //
      ("ulysses_size", text("N"), "ranks that share the attention heads")                  //
      ("ring_size", text("N"), "ranks that share the tokens in a ring")                    //
      ("pipeline_size", text("N"), "stages that share the transformer's blocks")           //
      ("data_parallel_size", text("N"), "groups that share the prompts of --prompt_file")  //
      ("dit_fsdp", switched(), "transformer's weights sharded over all ranks")             //
      ("t5_fsdp", switched(), "text encoder's weights sharded over all ranks")             //
      ("t5_cpu", switched(), "text encoder on the CPU, whatever the device")               //
      ("vae_parallel", text("BOOL", "true"), "ranks decode bands of the video");
  add_device_flags(machine);
  machine.add_options()                                                                              //
      ("dtype", one_of({"float32", "bfloat16"}), "float32 or bfloat16 (default: bfloat16 on cuda)")  //
      ("trace", text("FILE"), "when ranks compute, transfer and wait, for Perfetto")                 //
      ("stats", switched(), "say in the end what patches held and sent")                             //
      ("timeout", text("SECONDS", "60"), "how long ranks wait where none is at work");

  po::options_description patches("Displaced patches", kLineLength);
  add_patch_flags(patches);

  return {video, model, output, elsewhere, machine, patches};
}

namespace {

po::options_description flags() {
  po::options_description all(kLineLength);
  for (const auto& section : sections()) all.add(section);
  all.add(config_flags()).add(about_flags());
  return all;
}

void read_size(const std::string& text, Options& options) {
  const auto cross = text.find_first_of("*xX");
  const auto side = [&](std::string_view digits) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error == std::errc::invalid_argument || end != digits.data() + digits.size() || value < 0)
      refuse("--size '{}' is not a size; write width*height, as in --size \"832*480\"", text);
    if (error != std::errc() || value < 16 || value > kLargestSide)
      refuse("--size {}: a side must be from 16 to {} pixels, which is what the model and H.264 hold", text,
             kLargestSide);
    return value;
  };
  const auto nearest_16 = [](int64_t pixels) { return std::max<int64_t>(16, (pixels + 8) / 16 * 16); };

  options.width = side(std::string_view(text).substr(0, cross));
  options.height = cross == std::string::npos ? side("") : side(std::string_view(text).substr(cross + 1));
  if (options.width % 16 != 0 || options.height % 16 != 0)
    refuse("--size {}: width and height must be multiples of 16; the nearest such size is {}*{}", text,
           nearest_16(options.width), nearest_16(options.height));
}

void read_seed(const Words& words, Options& options) {
  const auto seed = words.count("base_seed", kSeed);
  if (seed && *seed >= 0) options.base_seed = static_cast<uint64_t>(*seed);
}

void check_frames(int64_t frames) {
  if (frames % 4 == 1) return;
  const auto below = (frames - 1) / 4 * 4 + 1;
  if (below == kMostFrames) refuse("--frame_num {} is not of the form 4n+1; take {}", frames, below);
  refuse("--frame_num {} is not of the form 4n+1; take {} or {}", frames, below, below + 4);
}

void read_prompt(const Words& words, Options& options) {
  if (words.has("prompt") && words.has("prompt_file"))
    refuse("--prompt and --prompt_file are both given; add the prompt to the file, or give one of them");
  if (!words.has("prompt_file")) words.require("prompt", "\"a red fox in the snow\"");
  if (!words.has("prompt")) words.require("prompt_file", "prompts.txt");
  options.prompt = words.text("prompt");
  options.prompt_file = words.text("prompt_file");
  options.negative_prompt = words.has("negative_prompt") ? words.text("negative_prompt") : kNegativePrompt;
}

void read_degrees(const Words& words, Options& options) {
  options.degrees = {.cfg = words.count("cfg_size", kDegree),
                     .ulysses = words.count("ulysses_size", kDegree),
                     .ring = words.count("ring_size", kDegree),
                     .data = words.count("data_parallel_size", kDegree),
                     .pipeline = words.count("pipeline_size", kDegree),
                     .patch = words.count("patch_parallel_size", kDegree)};
  if (options.degrees.cfg.value_or(1) > 2)
    refuse("--cfg_size {} is too large; guidance has two branches, so it is 1 or 2", *options.degrees.cfg);
}

Options read(const Words& words) {
  Options options;
  options.given = words.given();
  options.serve = words.text("serve");
  if (options.serve.empty()) words.require("ckpt_dir", "Wan2.1-T2V-1.3B");
  read_prompt(words, options);

  options.task = words.one_of("task");
  read_size(words.text("size"), options);
  options.frame_num = *words.count("frame_num", kFrames);
  check_frames(options.frame_num);
  options.ckpt_dir = words.text("ckpt_dir");
  read_seed(words, options);
  options.sample_solver = *words.one_of("sample_solver");
  options.sample_steps = *words.count("sample_steps", kSteps);
  options.sample_shift = words.amount("sample_shift", kShift);
  options.sample_guide_scale = *words.amount("sample_guide_scale", kGuideScale);
  options.save_file = words.text("save_file");
  read_degrees(words, options);
  options.patches = read_patches(words);
  check_steps(options.patches, options.degrees.patch.value_or(1), options.sample_steps);
  options.dit_fsdp = *words.truth("dit_fsdp");
  options.t5_fsdp = *words.truth("t5_fsdp");
  options.t5_cpu = *words.truth("t5_cpu");
  if (options.t5_cpu && options.t5_fsdp)
    refuse(
        "--t5_cpu and --t5_fsdp are both given; the text encoder is whole on the CPU, or sharded over the "
        "ranks");
  options.vae_parallel = *words.truth("vae_parallel");
  options.local_ranks = *words.count("local_ranks", kLocalRanks);
  options.processes = read_processes(words);
  options.device = read_device(words);
  options.dtype = words.one_of("dtype");
  options.noise = words.text("noise");
  options.save_tensors = words.text("save_tensors");
  options.fps = *words.count("fps", kFps);
  options.contact_sheet = words.text("contact_sheet");
  options.stats = *words.truth("stats");
  options.trace = words.text("trace");
  options.timeout = *words.amount("timeout", kTimeout);
  options.origins = words.origins();
  options.notes = words.notes();
  return options;
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  const Words words(arguments, flags(), "wan_t2v", "negative_prompt");
  return options_or_answer(words, about_wan_t2v(), read);
}

About about_wan_t2v() {
  return {.program = "wan_t2v",
          .summary = "a prompt goes in, a video comes out, made by one rank or many",
          .usage =
              "  wan_t2v --ckpt_dir DIR --prompt \"a red fox in the snow\" --local_ranks 2\n"
              "  wanrun -n 4 -- wan_t2v --config 4gpu.json --ckpt_dir DIR --prompt ...\n"
              "(torchrun --no-python, mpirun and srun start it, too; examples/train/model is a small DIR)\n",
          .flags = flags()};
}

}  // namespace wan
