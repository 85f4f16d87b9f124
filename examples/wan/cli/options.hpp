#pragma once
#include <boost/program_options.hpp>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "wan/cli/about.hpp"
#include "wan/cli/degrees.hpp"
#include "wan/cli/patches.hpp"
#include "wan/cli/processes.hpp"
#include "wan/cli/usage_error.hpp"
#include "wan/scheduler/solver_names.hpp"

namespace wan {

/// What the user of wan_t2v asks for. What is absent comes from the checkpoint or the machine.
struct Options {
  std::optional<std::string> answer;  ///< of --help and its like: to be printed, and nothing else to be done

  std::optional<std::string> task;
  int64_t width = 832;
  int64_t height = 480;
  int64_t frame_num = 81;
  std::filesystem::path ckpt_dir;
  std::string prompt;  ///< empty where there is a file of prompts
  std::filesystem::path prompt_file;
  std::string negative_prompt;        ///< the official one where none is given
  std::optional<uint64_t> base_seed;  ///< absent: random
  std::string sample_solver = kSolverNames.front();
  int64_t sample_steps = 50;
  std::optional<double> sample_shift;
  double sample_guide_scale = 5.0;
  std::filesystem::path save_file;  ///< empty: named after task, size, degrees, prompt and time
  RequestedDegrees degrees;
  RequestedPatches patches;
  bool dit_fsdp = false;     ///< shard the transformer's weights
  bool t5_fsdp = false;      ///< shard the text encoder's weights
  bool t5_cpu = false;       ///< encode the text on the CPU
  bool vae_parallel = true;  ///< all ranks that make a video decode it
  int64_t local_ranks = 1;
  RequestedProcesses processes;
  std::optional<std::string> device;  ///< cpu, cuda
  std::optional<std::string> dtype;   ///< float32, bfloat16
  std::filesystem::path noise;
  std::filesystem::path save_tensors;
  int64_t fps = 16;
  std::filesystem::path contact_sheet;
  bool stats = false;   ///< say in the end what patches held and sent
  double timeout = 60;  ///< seconds that ranks wait where none is at work
  std::filesystem::path trace;
  std::string serve;                         ///< the URL of a server that is to make it; empty: this program
  std::map<std::string, std::string> given;  ///< flags that are no defaults
  std::map<std::string, std::string>
      origins;                     ///< of values that were not typed: a variable, or a file's field
  std::vector<std::string> notes;  ///< of the file

  Guidance guidance() const { return sample_guide_scale > 1 ? Guidance::on : Guidance::off; }
};

/// Options of the words after the program's name, of the environment and of a file (Words). Checks all that
/// can be checked without the checkpoint.
/// Throws UsageError: one sentence with the flag, its value and what to write instead.
Options parse_options(const std::vector<std::string>& words);

/// The flags of what to make and how, section by section.
std::vector<boost::program_options::options_description> sections();

/// What --help, --man and --completion tell of wan_t2v.
About about_wan_t2v();

}  // namespace wan
