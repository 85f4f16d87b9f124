#include "wanrun/command_line.hpp"

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <sstream>

#include "wan/cli/about.hpp"
#include "wan/cli/flag.hpp"
#include "wan/cli/words.hpp"
#include "wanrun/script.hpp"

namespace wanrun {
namespace po = boost::program_options;
using wan::refuse;

namespace {

constexpr int kMostRanks = 1024, kMostHosts = 4096;

po::options_description flags() {
  using wan::one_of, wan::text, wan::switched;
  po::options_description all("Options, before the program");
  all.add_options()                                                                                    //
      ("nproc_per_node,n", text("N"), "ranks on this host (default: one for each of --gpus, else 1)")  //
      ("gpus", text("LIST"), "CUDA devices, as in 0,1,3, or how many, as in 4 (default: all)")         //
      ("backend", one_of({"nccl", "gloo"}), "nccl or gloo (default: the program's choice)")            //
      ("nnodes", text("N"), "hosts of the run (default 1); start wanrun on each")                      //
      ("node_rank", text("N"), "this host's number, from 0")                                           //
      ("master_addr", text("HOST"), "the host with number 0")                                          //
      ("master_port", text("PORT"), "a port there (default: a free one; 29500 with several hosts)")    //
      ("script", text("FILE"), "a shell script in the place of the program")                           //
      ("no_prefix", "what ranks print as they print it, without [rank]")                               //
      ("create_script", "print a script that makes the video of --workflow or --config")               //
      ("workflow", text("FILE"), "a ComfyUI workflow, as its editor or its API saves it")              //
      ("config", text("FILE"), "a configuration of wan_t2v, JSON or TOML");
  all.add(wan::about_flags());
  return all;
}

wan::About about() {
  return {
      .program = "wanrun",
      .summary = "starts a program as N ranks, and ends them all when one fails",
      .usage =
          "  wanrun -n 4 -- wan_t2v --ckpt_dir DIR --prompt \"a red fox in the snow\"\n"
          "  wanrun --gpus 0,1,2,3 -- program arguments\n"
          "  wanrun -n 8 --nnodes 2 --node_rank 0 --master_addr host0 -- program      (on each of two "
          "hosts)\n"
          "  wanrun --create-script --workflow video.json > video.sh\n\n"
          "Each rank finds RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as "
          "under\n"
          "torchrun. The exit code is that of the rank that failed first, 128 and the signal where one ended "
          "it.\n",
      .flags = flags()};
}

int whole_number(const std::string& flag, const std::string& text, int least, int greatest) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > greatest)
    refuse("--{} '{}' is no whole number from {} to {}", flag, text, least, greatest);
  return value;
}

/// 4 is how many, 0,1,3 is which; "2," is the one device 2.
std::vector<int> devices_of(const std::string& text) {
  std::vector<int> devices;
  if (text.find(',') == text.npos) {
    const int count = whole_number("gpus", text, 1, kMostRanks);
    for (int device = 0; device < count; ++device) devices.push_back(device);
    return devices;
  }
  std::istringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    const int device = whole_number("gpus", item, 0, kMostRanks);
    if (std::find(devices.begin(), devices.end(), device) != devices.end())
      refuse("--gpus {} names device {} twice", text, device);
    devices.push_back(device);
  }
  return devices;
}

/// As the table has it: torchrun's --nproc-per-node, and mpirun's -np.
std::string as_known(const std::string& word) { return word == "-np" ? "-n" : wan::with_underscores(word); }

/// Where the launcher's own words end: at `--`, or at the first that is no flag and no flag's value.
size_t begin_of_program(const std::vector<std::string>& words, const po::options_description& known) {
  for (size_t i = 0; i < words.size(); ++i) {
    const auto& word = words[i];
    if (word == "--" || !word.starts_with("-") || word == "-") return i;
    const auto spelled = as_known(word);
    const auto name = spelled.substr(0, spelled.find('='));
    const auto* option =
        known.find_nothrow(name.starts_with("--") ? name.substr(2) : name.substr(0, 2), false);
    const bool has_value = option && option->semantic()->max_tokens() > 0;
    const bool is_apart = word.find('=') == word.npos && (word.starts_with("--") || spelled.size() == 2);
    if (has_value && is_apart) ++i;
  }
  return words.size();
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& words) {
  const auto known = flags();
  const auto begin = begin_of_program(words, known);
  std::vector<std::string> own(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(begin));
  std::transform(own.begin(), own.end(), own.begin(), as_known);
  const wan::Words values(own, known, "wanrun", {}, wan::Sources::typed);

  CommandLine line;
  const auto given = [&](const char* flag) { return values.has(flag); };
  const auto text = [&](const char* flag) { return values.text(flag); };
  if ((line.answer = answer_of(values, about()))) return line;
  const auto number = [&](const char* flag, int least, int greatest, int otherwise) {
    return given(flag) ? whole_number(flag, text(flag), least, greatest) : otherwise;
  };
  if (given("gpus")) line.gpus = devices_of(text("gpus"));
  line.ranks = number("nproc_per_node", 1, kMostRanks, std::max<int>(1, static_cast<int>(line.gpus.size())));
  if (!line.gpus.empty() && line.gpus.size() < static_cast<size_t>(line.ranks))
    refuse("-n {} ranks, but --gpus {} has {} devices; a rank takes one of its own", line.ranks, text("gpus"),
           line.gpus.size());
  line.backend = values.one_of("backend").value_or("");
  line.hosts = number("nnodes", 1, kMostHosts, 1);
  line.host = number("node_rank", 0, kMostHosts - 1, 0);
  if (line.host >= line.hosts)
    refuse("--node_rank {} with --nnodes {}; hosts are numbered from 0 to {}", line.host, line.hosts,
           line.hosts - 1);
  if (line.hosts > 1 && !given("node_rank"))
    refuse("--nnodes {} needs --node_rank, from 0 to {}", line.hosts, line.hosts - 1);
  if (line.hosts > 1 && !given("master_addr"))
    refuse("--nnodes {} needs --master_addr, the name or address of host 0", line.hosts);
  if (given("master_addr")) line.master_addr = text("master_addr");
  line.master_port = number("master_port", 1, 65535, line.hosts > 1 ? 29500 : 0);
  line.has_prefix = !given("no_prefix");

  const auto program = begin + (begin < words.size() && words[begin] == "--");
  line.program.assign(words.begin() + static_cast<std::ptrdiff_t>(program), words.end());
  if (given("script")) {
    line.program.insert(line.program.begin(), {"bash", text("script")});
  } else if (given("create_script")) {
    if (given("workflow") == given("config"))
      refuse("--create_script takes one of --workflow FILE and --config FILE");
    line.answer = given("workflow") ? script_of_workflow(text("workflow")) : script_of_config(text("config"));
  } else if (given("workflow") || given("config")) {
    refuse("--{} is for --create_script; the program's own flags stand behind it",
           given("config") ? "config" : "workflow");
  } else if (line.program.empty()) {
    refuse("there is no program to start; write it behind the options: wanrun -n 2 -- program arguments");
  }
  return line;
}

}  // namespace wanrun
