#include "wan/cli/options.hpp"

#include <doctest/doctest.h>

#include "wan/text/negative_prompt.hpp"

using wan::Options;
using wan::parse_options;

namespace options_test {
namespace {

/// Options of a complete command line with `more` at its end.
Options parse(std::vector<std::string> more = {}) {
  std::vector<std::string> words = {"--ckpt_dir", "weights", "--prompt", "a fox"};
  words.insert(words.end(), more.begin(), more.end());
  return parse_options(words);
}

/// What is said about a command line with `more` at its end; empty when it is accepted.
std::string complaint(std::vector<std::string> more) {
  try {
    parse(std::move(more));
    return "";
  } catch (const wan::UsageError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("options that nobody gave are the official defaults") {
  const auto options = parse();
  CHECK(options.ckpt_dir == "weights");
  CHECK(options.prompt == "a fox");
  CHECK(options.negative_prompt == wan::kNegativePrompt);
  CHECK(options.width == 832);
  CHECK(options.height == 480);
  CHECK(options.frame_num == 81);
  CHECK(options.sample_solver == "unipc");
  CHECK(options.sample_steps == 50);
  CHECK(options.sample_guide_scale == 5.0);
  CHECK(options.fps == 16);
  CHECK(options.local_ranks == 1);
  CHECK_FALSE(options.base_seed);
  CHECK_FALSE(options.sample_shift);
  CHECK_FALSE(options.task);
  CHECK_FALSE(options.dit_fsdp);
  CHECK_FALSE(options.t5_fsdp);
  CHECK(options.vae_parallel);
}

TEST_CASE("every flag reaches its option") {
  const auto options = parse({"--task",
                              "t2v-1.3B",
                              "--size",
                              "480x832",
                              "--frame_num",
                              "9",
                              "--base_seed",
                              "42",
                              "--sample_shift",
                              "3.5",
                              "--sample_guide_scale",
                              "6",
                              "--sample_solver=dpm++",
                              "--sample_steps",
                              "20",
                              "--save_file",
                              "out.mp4",
                              "--ulysses_size",
                              "2",
                              "--ring_size",
                              "3",
                              "--cfg_size",
                              "2",
                              "--data_parallel_size",
                              "1",
                              "--pipeline_size",
                              "4",
                              "--dit_fsdp",
                              "--t5_fsdp",
                              "--vae_parallel",
                              "false",
                              "--local_ranks",
                              "12",
                              "--device",
                              "cpu",
                              "--dtype",
                              "bfloat16",
                              "--noise",
                              "n.st",
                              "--save_tensors",
                              "t.st",
                              "--fps",
                              "24",
                              "--contact_sheet",
                              "c.png",
                              "--timeout",
                              "7.5",
                              "--negative_prompt",
                              "rain",
                              "--patch_parallel_size",
                              "2",
                              "--split_mode",
                              "temporal",
                              "--patch_overlap",
                              "8",
                              "--temporal_chunk_size",
                              "32",
                              "--warmup_steps",
                              "3",
                              "--sync_frequency",
                              "5",
                              "--sync_first_step",
                              "true",
                              "--async_boundary_update",
                              "false",
                              "--kv_dtype",
                              "float8_e4m3fn",
                              "--max_staleness",
                              "0.25",
                              "--stats"});
  CHECK(options.task == "t2v-1.3B");
  CHECK(options.width == 480);
  CHECK(options.height == 832);
  CHECK(options.frame_num == 9);
  CHECK(options.base_seed == 42);
  CHECK(options.sample_shift == 3.5);
  CHECK(options.sample_guide_scale == 6);
  CHECK(options.sample_solver == "dpm++");
  CHECK(options.sample_steps == 20);
  CHECK(options.save_file == "out.mp4");
  CHECK(options.degrees.cfg == 2);
  CHECK(options.degrees.ulysses == 2);
  CHECK(options.degrees.ring == 3);
  CHECK(options.degrees.data == 1);
  CHECK(options.degrees.pipeline == 4);
  CHECK(options.dit_fsdp);
  CHECK(options.t5_fsdp);
  CHECK_FALSE(options.vae_parallel);
  CHECK(options.local_ranks == 12);
  CHECK(options.device == "cpu");
  CHECK(options.dtype == "bfloat16");
  CHECK(options.noise == "n.st");
  CHECK(options.save_tensors == "t.st");
  CHECK(options.fps == 24);
  CHECK(options.contact_sheet == "c.png");
  CHECK(options.timeout == 7.5);
  CHECK(options.negative_prompt == "rain");
  CHECK(options.degrees.patch == 2);
  CHECK(options.patches.split_mode == "temporal");
  CHECK(options.patches.patch_overlap == 8);
  CHECK(options.patches.temporal_chunk_size == 32);
  CHECK(options.patches.warmup_steps == 3);
  CHECK(options.patches.sync_frequency == 5);
  CHECK(options.patches.sync_first_step);
  CHECK_FALSE(options.patches.async_boundary_update);
  CHECK(options.patches.kv_dtype == "float8_e4m3fn");
  CHECK(options.patches.max_staleness == 0.25);
  CHECK(options.stats);
}

TEST_CASE("patches that nobody described are those of the library's defaults, and exact at first") {
  const auto patches = parse({"--patch_parallel_size", "2"}).patches;
  CHECK(patches.split_mode == "spatial");
  CHECK(patches.warmup_steps == 4);
  CHECK(patches.sync_frequency == 0);
  CHECK(patches.sync_first_step);
  CHECK(patches.async_boundary_update);
  CHECK_FALSE(patches.patch_overlap);
  CHECK_FALSE(patches.kv_dtype);
  CHECK_FALSE(parse({"--patch_parallel_size", "2", "--warmup_steps", "0", "--sync_first_step", "false"})
                  .patches.sync_first_step);
}

TEST_CASE("patches in too few steps are refused, unless all of those are exact") {
  const auto said = [](const char* count, const char* flag, const char* value) {
    return complaint({"--patch_parallel_size", "2", "--sample_steps", count, flag, value});
  };
  CHECK(said("7", "--warmup_steps", "4") ==
        "--sample_steps 7 with --patch_parallel_size 2: in fewer than 8 steps the video changes too much "
        "from one "
        "to the next for patches that are a step old; take 8 steps, or --warmup_steps 7, with which all are "
        "exact");
  CHECK(said("8", "--warmup_steps", "4").empty());
  CHECK(said("7", "--warmup_steps", "7").empty());
  CHECK(said("7", "--sync_frequency", "1").empty());
  CHECK(complaint({"--patch_parallel_size", "1", "--sample_steps", "3"}).empty());
}

TEST_CASE("flags of patches that contradict one another are refused") {
  const auto said = [](std::vector<std::string> more) {
    more.insert(more.end(), {"--patch_parallel_size", "2"});
    return complaint(std::move(more));
  };
  CHECK(complaint({"--kv_dtype", "bfloat16"}) ==
        "--kv_dtype says how patches are dealt, and nobody asked for any; add --patch_parallel_size 2, or "
        "leave "
        "it out");
  CHECK(said({"--temporal_chunk_size", "8"}) ==
        "--temporal_chunk_size 8 is for --split_mode temporal, and this is spatial; leave one of them out");
  CHECK(
      said({"--split_mode", "spatiotemporal", "--patch_overlap", "16"}) ==
      "--patch_overlap 16 is for --split_mode spatial or temporal, and this is spatiotemporal; leave one of "
      "them out");
  CHECK(
      said({"--sync_first_step", "false"}) ==
      "--sync_first_step false, but --warmup_steps 4 and --sync_frequency 0 make the first step synchronous; "
      "give 0 for both, or leave it out");
  CHECK(said({"--split_mode", "diagonal"}) ==
        "--split_mode diagonal is unknown; choose one of spatial, temporal, spatiotemporal");
  CHECK(said({"--kv_dtype", "int8"}) == "--kv_dtype int8 is unknown; choose one of bfloat16, float8_e4m3fn");
  CHECK(said({"--sync_first_step", "1"}) == "--sync_first_step 1 is unknown; choose one of true, false");
  CHECK(said({"--patch_overlap", "-1"}).starts_with("--patch_overlap -1 is out of range"));
  CHECK(said({"--max_staleness", "nan"}).starts_with("--max_staleness 'nan' is not a number"));
}

TEST_CASE("a seed of -1 is a random one, and prompts may look like flags of others") {
  CHECK_FALSE(parse({"--base_seed", "-1"}).base_seed);
  CHECK(parse({"--negative_prompt", "- blur"}).negative_prompt == "- blur");
}

TEST_CASE("a wrong value is refused in one sentence with flag, value and remedy") {
  CHECK(complaint({"--size", "830*480"}) ==
        "--size 830*480: width and height must be multiples of 16; the nearest such size is 832*480");
  CHECK(complaint({"--size", "large"}) ==
        "--size 'large' is not a size; write width*height, as in --size \"832*480\"");
  CHECK(complaint({"--size", "832"}) ==
        "--size '832' is not a size; write width*height, as in --size \"832*480\"");
  CHECK(complaint({"--frame_num", "80"}) == "--frame_num 80 is not of the form 4n+1; take 77 or 81");
  CHECK(complaint({"--sample_steps", "0"}) ==
        "--sample_steps 0 is out of range; it must be from 1 to 1000: the schedule has 1000 timesteps");
  CHECK(complaint({"--sample_steps", "ten"}) ==
        "--sample_steps 'ten' is not a whole number; write it as in --sample_steps 50");
  CHECK(complaint({"--sample_solver", "ddim"}) ==
        "--sample_solver ddim is unknown; choose one of unipc, dpm++, euler, diffusers_unipc");
  CHECK(complaint({"--ring_size", "0"}) ==
        "--ring_size 0 is out of range; it must be from 1 to 4096: no run has more ranks");
  CHECK(complaint({"--cfg_size", "3"}) ==
        "--cfg_size 3 is too large; guidance has two branches, so it is 1 or 2");
  CHECK(complaint({"--base_seed", "-5"}).starts_with("--base_seed -5 is out of range; it must be from -1"));
  CHECK(complaint({"--sample_shift", "0"}).starts_with("--sample_shift 0 is out of range"));
  CHECK(complaint({"--device", "tpu"}) == "--device tpu is unknown; choose one of cpu, cuda");
}

TEST_CASE("numbers that are none, that wrap around or that no run could use are refused, with the range") {
  const std::pair<const char*, std::vector<const char*>> wrong[] = {
      {"--size", {"1000000*16", "16*16400", "0*16", "-16*16", "99999999999999999999*16", "16*"}},
      {"--frame_num", {"0", "4097", "4000001", "-3", "5.5"}},
      {"--sample_steps", {"1001", "100000", "2e1"}},
      {"--fps", {"0", "4294967312"}},
      {"--local_ranks", {"65", "4294967297", "9223372036854775807", "99999999999999999999", "-1"}},
      {"--ring_size", {"4097", "4294967296"}},
      {"--ulysses_size", {"4294967296"}},
      {"--data_parallel_size", {"1e9"}},
      {"--base_seed", {"-2", "9223372036854775808"}},
      {"--sample_guide_scale", {"nan", "-nan", "inf", "-inf", "1e30", "-5", "1e400", "five"}},
      {"--sample_shift", {"nan", "inf", "-1", "1e-300"}},
      {"--patch_parallel_size", {"0", "4097", "two"}},
      {"--timeout", {"nan", "inf", "0", "-1", "5e-324"}},
  };
  for (const auto& [flag, values] : wrong)
    for (const auto* value : values) {
      CAPTURE(value);
      const auto said = complaint({flag, value});
      CHECK(said.starts_with(flag));
      CHECK((said.find("out of range") != said.npos || said.find("is not") != said.npos ||
             said.find("must be") != said.npos));
    }
  CHECK(parse({"--frame_num", "4093"}).frame_num == 4093);
  CHECK(parse({"--size", "16384*16"}).width == 16384);
  CHECK(parse({"--sample_guide_scale", "0"}).guidance() == wan::Guidance::off);
}

TEST_CASE("an empty value is none, but for the negative prompt, where it is the empty text") {
  CHECK(parse({"--negative_prompt", ""}).negative_prompt.empty());
  for (const auto* flag :
       {"--noise", "--save_file", "--save_tensors", "--contact_sheet", "--base_seed", "--dtype"})
    CHECK(complaint({flag, ""}) == std::string(flag) + " is empty; give a value, or leave the flag out");
  CHECK(complaint({"--dit_fsdp=1"}) == "--dit_fsdp 1 is unknown; choose one of true, false");
  CHECK_FALSE(parse({"--dit_fsdp=false"}).dit_fsdp);
}

TEST_CASE("a wrong flag is refused, with the nearest one") {
  CHECK(complaint({"--frame_nun", "5"}) == "--frame_nun is not a flag of wan_t2v; did you mean --frame_num?");
  CHECK(complaint({"--ulyses_size", "2"}) ==
        "--ulyses_size is not a flag of wan_t2v; did you mean --ulysses_size?");
  CHECK(complaint({"--base_seed"}) == "--base_seed needs a value; --help shows which");
  CHECK(complaint({"--fps", "8", "--fps", "9"}) == "--fps is given twice; once is enough");
  CHECK(complaint({"stray"}).starts_with("a word stands alone"));
}

TEST_CASE("what is required is asked for") {
  CHECK_THROWS_WITH_AS(parse_options({"--prompt", "a fox"}), doctest::Contains("--ckpt_dir is missing"),
                       wan::UsageError);
  CHECK_THROWS_WITH_AS(parse_options({"--ckpt_dir", "weights"}), doctest::Contains("--prompt is missing"),
                       wan::UsageError);
  CHECK(parse_options({"--ckpt_dir", "weights", "--prompt_file", "list"}).prompt_file == "list");
  CHECK(complaint({"--prompt_file", "list"}).starts_with("--prompt and --prompt_file are both given"));
  CHECK(complaint({"--dit_fsdp", "2"}) == "--dit_fsdp 2 is unknown; choose one of true, false");
}

TEST_CASE("help and version need nothing else, and help fits a screen") {
  CHECK(parse_options({"--version"}).answer->starts_with("wan_t2v "));
  const auto help = *parse_options({"-h"}).answer;
  CHECK(help == parse_options({"--help"}).answer);
  CHECK(std::count(help.begin(), help.end(), '\n') < 80);
  CHECK(help.find("--sample_guide_scale") != std::string::npos);
}

TEST_CASE("device and backend are one choice") {
  CHECK(parse({"--backend", "gloo"}).device == "cpu");
  CHECK(parse({"--backend", "nccl"}).device == "cuda");
  CHECK(parse({"--backend", "gloo", "--device", "cpu"}).device == "cpu");
  CHECK_FALSE(parse().device);
  CHECK(complaint({"--backend", "gloo", "--device", "cuda"}) ==
        "--backend gloo moves tensors of the CPU, but --device is cuda; leave one of them out");
}

TEST_CASE("flags are read with either stroke") {
  CHECK(parse({"--sample-steps", "7", "--save-file=a-b.mp4"}).sample_steps == 7);
  CHECK(parse({"--save-file=a-b.mp4"}).save_file == "a-b.mp4");
}

}  // namespace options_test
