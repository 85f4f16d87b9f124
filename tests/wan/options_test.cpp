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
                              "rain"});
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
  CHECK(options.local_ranks == 12);
  CHECK(options.device == "cpu");
  CHECK(options.dtype == "bfloat16");
  CHECK(options.noise == "n.st");
  CHECK(options.save_tensors == "t.st");
  CHECK(options.fps == 24);
  CHECK(options.contact_sheet == "c.png");
  CHECK(options.timeout == 7.5);
  CHECK(options.negative_prompt == "rain");
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
  CHECK(complaint({"--sample_steps", "0"}) == "--sample_steps 0 is too small; it must be 1 or more");
  CHECK(complaint({"--sample_steps", "ten"}) ==
        "--sample_steps 'ten' is not a whole number; write it as in --sample_steps 4");
  CHECK(complaint({"--sample_solver", "ddim"}) ==
        "--sample_solver ddim is unknown; choose one of unipc, dpm++, euler, diffusers_unipc");
  CHECK(complaint({"--ring_size", "0"}) == "--ring_size 0 is too small; it must be 1 or more");
  CHECK(complaint({"--cfg_size", "3"}) ==
        "--cfg_size 3 is too large; guidance has two branches, so it is 1 or 2");
  CHECK(complaint({"--base_seed", "-5"}) ==
        "--base_seed -5 is negative; give 0 or more, or -1 for a random one");
  CHECK(complaint({"--sample_shift", "0"}) == "--sample_shift 0 must be a number above 0");
  CHECK(complaint({"--device", "tpu"}) == "--device tpu is unknown; choose one of cpu, cuda");
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
  CHECK(complaint({"--dit_fsdp", "2"}).starts_with("a word stands alone"));
}

TEST_CASE("help and version need nothing else, and help fits a screen") {
  CHECK(parse_options({"--help"}).action == Options::Action::help);
  CHECK(parse_options({"--version"}).action == Options::Action::version);
  const auto help = wan::help_text();
  CHECK(std::count(help.begin(), help.end(), '\n') < 50);
  CHECK(help.find("--sample_guide_scale") != std::string::npos);
}

}  // namespace options_test
