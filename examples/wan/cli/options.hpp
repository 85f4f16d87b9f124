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

/// The options of wan_t2v. Absent ones are derived from the checkpoint or the machine.
struct Options {
  std::optional<std::string> answer;  ///< printed instead of any work, for --help and similar flags

  std::optional<std::string> task;
  int64_t width = 832;
  int64_t height = 480;
  int64_t frame_num = 81;
  std::filesystem::path ckpt_dir;
  std::string prompt;  ///< empty if there is a file of prompts
  std::filesystem::path prompt_file;
  std::string negative_prompt;        ///< Wan's official one by default
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
  bool vae_parallel = true;  ///< all ranks that make a video also decode it
  int64_t local_ranks = 1;
  RequestedProcesses processes;
  std::optional<std::string> device;  ///< cpu, cuda
  std::optional<std::string> dtype;   ///< float32, bfloat16
  std::filesystem::path noise;
  std::filesystem::path save_tensors;
  int64_t fps = 16;
  std::filesystem::path contact_sheet;
  bool stats = false;   ///< report in the end what patches stored and sent
  double timeout = 60;  ///< seconds that ranks wait while none makes progress
  std::filesystem::path trace;
  std::string serve;  ///< the URL of a server that makes the video; empty: this program
  std::map<std::string, std::string> given;    ///< flags with values other than by default
  std::map<std::string, std::string> origins;  ///< the variable or file field of values that were not flags
  std::vector<std::string> notes;              ///< on fields of the file

  Guidance guidance() const { return sample_guide_scale > 1 ? Guidance::on : Guidance::off; }
};

/// Parses the words after the program's name, the environment and a file (Words). Validates everything that
/// does not need the checkpoint. Throws UsageError: one sentence with the flag, its value and a valid
/// alternative.
Options parse_options(const std::vector<std::string>& words);

/// The flags for videos and how they are made, section by section.
std::vector<boost::program_options::options_description> sections();

/// For --help, --man and --completion of wan_t2v.
About about_wan_t2v();

}  // namespace wan
