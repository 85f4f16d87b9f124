#include "wanrun/command_line.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <sstream>

namespace wanrun {
namespace po = boost::program_options;
namespace {

constexpr int kMostRanks = 1024, kMostHosts = 4096;

po::options_description flags() {
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  po::options_description all("Options, before the program");
  all.add_options()                                                                                    //
      ("nproc_per_node,n", text("N"), "ranks on this host (default: one for each of --gpus, else 1)")  //
      ("gpus", text("LIST"), "CUDA devices, as in 0,1,3, or how many, as in 4 (default: all)")         //
      ("backend", text("NAME"), "nccl or gloo (default: the program's choice)")                        //
      ("nnodes", text("N"), "hosts of the run (default 1); start wanrun on each")                      //
      ("node_rank", text("N"), "this host's number, from 0")                                           //
      ("master_addr", text("HOST"), "the host with number 0")                                          //
      ("master_port", text("PORT"), "a port there (default: a free one; 29500 with several hosts)")    //
      ("script", text("FILE"), "a shell script in the place of the program")                           //
      ("no_prefix", "lines as the ranks print them, without [rank]")                                   //
      ("help,h", "this text")("version", "the version");
  return all;
}

template <class... Parts>
[[noreturn]] void refuse(fmt::format_string<Parts...> sentence, Parts&&... parts) {
  throw UsageError(fmt::format(sentence, std::forward<Parts>(parts)...));
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

/// --nproc-per-node as --nproc_per_node: torchrun takes both.
std::string with_underscores(std::string word) {
  if (word.starts_with("--"))
    std::replace(word.begin() + 2,
                 word.begin() + static_cast<std::ptrdiff_t>(std::min(word.find('='), word.size())), '-', '_');
  return word;
}

/// Where the launcher's own words end: at `--`, or at the first that is no flag and no flag's value.
size_t begin_of_program(const std::vector<std::string>& words, const po::options_description& known) {
  for (size_t i = 0; i < words.size(); ++i) {
    const auto& word = words[i];
    if (word == "--" || !word.starts_with("-") || word == "-") return i;
    const auto name = with_underscores(word).substr(0, word.find('='));
    const auto* option =
        known.find_nothrow(name.starts_with("--") ? name.substr(2) : name.substr(0, 2), false);
    const bool has_value = option && option->semantic()->max_tokens() > 0;
    const bool is_apart = word.find('=') == word.npos && (word.starts_with("--") || word.size() == 2);
    if (has_value && is_apart) ++i;
  }
  return words.size();
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& words) try {
  const auto known = flags();
  const auto begin = begin_of_program(words, known);
  std::vector<std::string> own(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(begin));
  std::transform(own.begin(), own.end(), own.begin(), with_underscores);
  po::variables_map values;
  po::command_line_parser parser(own);
  using Style = po::command_line_style::style_t;
  po::store(parser.options(known).style(Style(Style::unix_style & ~Style::allow_guessing)).run(), values);

  CommandLine line;
  if (values.count("help")) line.action = CommandLine::Action::help;
  if (values.count("version")) line.action = CommandLine::Action::version;
  if (line.action != CommandLine::Action::run) return line;

  const auto given = [&](const char* flag) { return values.count(flag) > 0; };
  const auto text = [&](const char* flag) { return values[flag].as<std::string>(); };
  const auto number = [&](const char* flag, int least, int greatest, int otherwise) {
    return given(flag) ? whole_number(flag, text(flag), least, greatest) : otherwise;
  };
  if (given("gpus")) line.gpus = devices_of(text("gpus"));
  line.ranks = number("nproc_per_node", 1, kMostRanks, std::max<int>(1, static_cast<int>(line.gpus.size())));
  if (!line.gpus.empty() && line.gpus.size() < static_cast<size_t>(line.ranks))
    refuse("-n {} ranks, but --gpus {} has {} devices; a rank takes one of its own", line.ranks, text("gpus"),
           line.gpus.size());
  if (given("backend")) line.backend = text("backend");
  if (!line.backend.empty() && line.backend != "nccl" && line.backend != "gloo")
    refuse("--backend '{}' is none of nccl, gloo", line.backend);
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
  } else if (line.program.empty()) {
    refuse("there is no program to start; write it behind the options: wanrun -n 2 -- program arguments");
  }
  return line;
} catch (const po::error& error) {
  throw UsageError(error.what());
}

std::string help_text() {
  std::ostringstream text;
  text << "wanrun: starts a program as N ranks, and ends them all when one fails.\n\n"
          "  wanrun -n 4 -- wan_t2v --ckpt_dir DIR --prompt \"a red fox in the snow\"\n"
          "  wanrun --gpus 0,1,2,3 -- program arguments\n"
          "  wanrun -n 8 --nnodes 2 --node_rank 0 --master_addr host0 -- program      (on each of two "
          "hosts)\n\n"
          "Each rank finds RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as "
          "under\n"
          "torchrun. The exit code is that of the rank that failed first, 128 and the signal where one ended "
          "it.\n\n"
       << flags();
  return text.str();
}

}  // namespace wanrun
