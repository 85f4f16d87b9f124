#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "wan/cli/options.hpp"

using wan::Options;

namespace config_test {
namespace {

/// A variable of the environment while it lives.
struct Variable {
  Variable(const char* name, const char* value) : name(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name); }
  const char* name;
};

/// A file of a text while it lives.
struct File {
  explicit File(const std::string& text, const std::string& ending = ".json")
      : path((std::filesystem::temp_directory_path() / ("config_test" + ending)).string()) {
    std::ofstream(path) << text;
  }
  ~File() { std::filesystem::remove(path); }
  std::string path;
};

Options parse(const std::string& text, std::vector<std::string> more = {},
              const std::string& ending = ".json") {
  const File file(text, ending);
  std::vector<std::string> words = {"--ckpt_dir", "weights", "--prompt", "a fox", "--config", file.path};
  words.insert(words.end(), more.begin(), more.end());
  return wan::parse_options(words);
}

/// What is said about a file, without its name at the beginning.
std::string complaint(const std::string& text, const std::string& ending = ".json") {
  try {
    parse(text, {}, ending);
    return "";
  } catch (const wan::UsageError& error) {
    const std::string said = error.what();
    const auto begin = (std::filesystem::temp_directory_path() / ("config_test" + ending)).string() + ": ";
    return said.starts_with(begin) ? said.substr(begin.size()) : said;
  }
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("a file gives what flags give, in JSON with comments and in TOML") {
  const char* json = R"({
    "sample_steps": 12,  // few
    /* and small */ "size": "64*32", "dit_fsdp": true, "t5_fsdp": false, "sample_guide_scale": 3.5,
    "vae_parallel": false, "task": null
  })";
  const char* toml =
      "sample_steps = 12 # few\nsize = '64*32'\ndit_fsdp = true\n[more]\nsample_guide_scale = "
      "3.5\nvae_parallel = false\n";
  for (const auto& options : {parse(json), parse(toml, {}, ".toml")}) {
    CHECK(options.sample_steps == 12);
    CHECK(options.width == 64);
    CHECK(options.dit_fsdp);
    CHECK_FALSE(options.t5_fsdp);
    CHECK(options.sample_guide_scale == 3.5);
    CHECK_FALSE(options.vae_parallel);
    CHECK_FALSE(options.task);
  }
}

TEST_CASE("flags go before variables, those before the file, that before defaults") {
  const char* text = R"({"sample_steps": 12, "fps": 12, "frame_num": 5, "dit_fsdp": true})";
  const Variable steps("WANPAR_SAMPLE_STEPS", "13"), fps("WANPAR_FPS", "13");
  const auto options = parse(text, {"--sample_steps", "14", "--dit_fsdp=false"});
  CHECK(options.sample_steps == 14);
  CHECK(options.fps == 13);
  CHECK(options.frame_num == 5);
  CHECK_FALSE(options.dit_fsdp);
  CHECK(options.sample_guide_scale == 5);
}

TEST_CASE("--print_config shows each value and where it came from, and can be read again") {
  const Variable fps("WANPAR_FPS", "13");
  const auto shown =
      *parse(R"({"steps": 12, "dit_fsdp": true})", {"--frame-num", "5", "--print-config"}).answer;
  CHECK(has(shown, "sample_steps = 12"));
  CHECK(has(shown, "config_test.json: steps\n"));
  CHECK(has(shown, "# WANPAR_FPS\n"));
  CHECK(has(shown, "# --frame_num\n"));
  CHECK(has(shown, "# timeout = 60"));
  CHECK(has(shown, "# default\n"));
  CHECK(has(shown, "# ring_size ="));
  ::unsetenv("WANPAR_FPS");
  const auto again = wan::parse_options({"--config", File(shown, ".toml").path});
  CHECK(again.prompt == "a fox");
  CHECK(again.ckpt_dir == "weights");
  CHECK(again.sample_steps == 12);
  CHECK(again.fps == 13);
  CHECK(again.dit_fsdp);
  for (const char* text : {"-05", "1e5", "\"a\" \\ \n 🦊", "99999999999999999999", "true", "# no"}) {
    const auto printed = *wan::parse_options({"--prompt", text, "--print-config"}).answer;
    const File file(printed, ".toml");
    CHECK(wan::parse_options({"--ckpt_dir", "weights", "--config", file.path}).prompt == text);
  }
}

TEST_CASE("a complaint says where the value comes from") {
  const Variable fps("WANPAR_FPS", "none");
  CHECK(complaint("{}") ==
        "--fps 'none' is not a whole number; write it as in --fps 16 (--fps is from WANPAR_FPS)");
  ::unsetenv("WANPAR_FPS");
  const auto said = complaint(R"({"steps": 0})");
  CHECK(said.starts_with("--sample_steps 0 is out of range"));
  CHECK(said.ends_with("config_test.json: steps)"));
}

TEST_CASE("the fields of Wan's distributed settings say what they say there") {
  const auto two = parse(R"({"world_size": 2, "rank": 0, "use_fsdp": true, "use_context_parallel": false,
                             "param_dtype": "bfloat16", "sharding_strategy": "FULL_SHARD"})");
  CHECK(two.processes.world_size == 2);
  CHECK(two.dit_fsdp);
  CHECK(two.dtype == "bfloat16");
  CHECK(two.notes.size() == 1);
  const auto eight = parse(R"({"world_size": 8, "rank": 0, "use_fsdp": true, "use_context_parallel": true,
                               "ulysses_size": 4, "ring_size": 2, "param_dtype": "bfloat16", "base_precision": "bf16",
                               "reduce_dtype": "float32", "buffer_dtype": "float32", "sync_module_states": true,
                               "use_usp": true, "backend": "nccl", "t5_cpu": true, "attention_mode": "sdpa",
                               "wan_distributed_config": {"t5_fsdp": false}})");
  CHECK(eight.degrees.ulysses == 4);
  CHECK(eight.degrees.ring == 2);
  CHECK(eight.device == "cuda");
  CHECK(eight.t5_cpu);
  CHECK(eight.notes.empty());
  CHECK_FALSE(parse(R"({"use_fsdp": true, "sharding_strategy": "NO_SHARD"})").dit_fsdp);
  CHECK(parse(R"({"dit_fsdp": false, "use_fsdp": true})").dit_fsdp);
  CHECK_FALSE(parse(R"({"dit_fsdp": true, "sharding_strategy": "SHARD_GRAD_OP"})").dit_fsdp);
  CHECK_FALSE(parse(R"({"use_context_parallel": false, "ulysses_size": 2, "ring_size": 4})").degrees.ring);
}

TEST_CASE("the fields of DistriFusion say what they say there") {
  const auto four =
      parse(R"({"num_gpus": 4, "split_mode": "spatial", "patch_overlap": 16, "warmup_steps": 4})");
  CHECK(four.degrees.patch == 4);
  CHECK(four.patches.patch_overlap == 16);
  const auto enabled =
      parse(R"({"enable_distrifusion": true, "num_devices": 8, "ulysses_size": 2, "process_rank": 3})");
  CHECK(enabled.degrees.patch == 4);
  CHECK_FALSE(
      parse(R"({"enable_distrifusion": false, "num_gpus": 4, "split_mode": "temporal"})").degrees.patch);
  CHECK(parse(R"({"num_gpus": 8, "split_mode": "temporal", "temporal_chunk_size": 32, "patch_overlap": 4,
                  "async_communication": false, "steps": 20, "cfg": 8.0})")
            .sample_guide_scale == 8);
}

TEST_CASE("the fields of the multi-GPU loader say what they say there") {
  const auto blocks = parse(
      R"({"parallelism_type": "block_distribution", "gpu_ids": "0,1,2,3", "enable_block_distribution": true})");
  CHECK(blocks.degrees.pipeline == 4);
  CHECK(blocks.processes.gpu_ids == "0,1,2,3");
  CHECK(blocks.processes.world_size == 4);
  CHECK(parse(R"({"parallelism_type": "data_parallel", "gpu_ids": [0, 2]})").degrees.data == 2);
  CHECK(parse(R"({"parallelism_type": "none", "gpu_ids": [3]})").processes.world_size == 1);
  CHECK(parse(R"({"parallelism_type": "distributed", "num_gpus": 2})").processes.world_size == 2);
}

TEST_CASE("what is not known, or not built, or contradicts itself is refused in one sentence") {
  CHECK(complaint(R"({"ulyses_size": 2})") ==
        "'ulyses_size' is no field of a configuration; did you mean ulysses_size?");
  CHECK(complaint(R"({"quantisation": "fp8"})") ==
        "'quantisation' is no field of a configuration; did you mean quantization?");
  CHECK(complaint(R"({"help": true})").starts_with("'help' is no field"));
  CHECK(complaint(R"({"quantization": "fp8_e4m3fn"})") ==
        "quantization 'fp8_e4m3fn' is known but not built here: weights that a checkpoint stores as fp8 are "
        "read as "
        "they are");
  CHECK(complaint(R"({"quantization": "disabled", "load_device": "main_device"})").empty());
  for (const auto* text :
       {R"({"load_device": "offload_device"})", R"({"attention_mode": "flash_attn_3"})",
        R"({"backend": "inductor"})", R"({"blocks_to_swap": 10})", R"({"offload_percent": 0.5})",
        R"({"cache_device": "offload_device"})", R"({"param_dtype": "float16"})",
        R"({"sharding_strategy": "HYBRID_SHARD"})", R"({"buffer_dtype": "bfloat16"})"})
    CHECK(has(complaint(text), "known but not built here"));
  CHECK(complaint(R"({"sharding_strategy": "FULL"})")
            .starts_with("sharding_strategy 'FULL' is none of FULL_SHARD"));
  CHECK(complaint(R"({"param_dtype": "bf16", "base_precision": "fp32"})") ==
        "base_precision is fp32, but param_dtype is bfloat16; leave one of them out");
  CHECK(complaint(R"({"use_fsdp": 1})") == "use_fsdp '1' is neither true nor false");
  CHECK(complaint(R"({"parallelism_type": "block_distribution"})").find("needs the number of ranks") !=
        std::string::npos);
  CHECK(complaint(R"({"parallelism_type": "none", "enable_block_distribution": true})")
            .starts_with("parallelism_type is none"));
  CHECK(complaint(R"({"world_size": 4, "rank": 4})").starts_with("rank is 4, but ranks are 0 to 3"));
  CHECK(complaint(R"({"split_mode": "spatial"})").find("needs the number of ranks") != std::string::npos);
  CHECK(
      complaint(R"({"t5_cpu": true, "t5_fsdp": true})").starts_with("--t5_cpu and --t5_fsdp are both given"));
  CHECK(has(complaint(R"({"gpu_ids": "0,x"})"), "is no list of devices"));
}

TEST_CASE("what is no configuration is refused with where it is wrong") {
  CHECK(has(complaint("{\n\"fps\": 8,\n}"), "is not valid JSON in line 3"));
  CHECK(has(complaint("{\"fps\": 1e400}"), "has a number that is too large to be read"));
  CHECK(has(complaint("fps = \n", ".toml"), "is not valid TOML in line 1"));
  CHECK(has(complaint(R"({"fps": 8, "fps": 9})"), "says 'fps' twice"));
  CHECK(has(complaint(R"({"fps": 8, "more": {"fps": 9}})"), "says 'fps' twice"));
  CHECK(has(complaint("fps = 1\nfps = 2\n", ".toml"), "is not valid TOML in line 2"));
  CHECK(has(complaint("[1]"), "is not an object"));
  CHECK(has(complaint("fps = 1979-05-27\n", ".toml"), "dates and times"));
  CHECK(has(complaint(R"({"nodes": []})"), "is a ComfyUI workflow"));
  CHECK(has(complaint(R"({"3": {"class_type": "KSampler"}})"), "is a ComfyUI workflow"));
  CHECK_THROWS_WITH_AS(wan::parse_options({"--config", "/nowhere.json"}),
                       doctest::Contains("/nowhere.json cannot be read"), wan::UsageError);
}

TEST_CASE("as many ranks as a file speaks of must be there") {
  const wan::RequestedProcesses eight{.world_size = 8};
  CHECK_NOTHROW(wan::check_started(eight, 8, "wan_t2v"));
  CHECK_NOTHROW(wan::check_started({}, 3, "wan_t2v"));
  CHECK_THROWS_WITH_AS(
      wan::check_started(eight, 1, "wan_t2v"),
      "--world_size 8, but 1 rank was started; start them by wanrun -n 8 -- wan_t2v …, or take "
      "--local_ranks 8",
      wan::UsageError);
}

}  // namespace config_test
