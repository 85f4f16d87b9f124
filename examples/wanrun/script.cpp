#include "wanrun/script.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "wan/cli/about.hpp"
#include "wan/cli/fields.hpp"
#include "wan/cli/options.hpp"
#include "wan/cli/words.hpp"
#include "wan/workflow/graph.hpp"
#include "wan/workflow/video.hpp"

namespace wanrun {
namespace {

std::string quoted(const std::string& text) {
  const bool is_plain = !text.empty() && text.find_first_not_of(
                                             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                             "0123456789_-+=:,./") == text.npos;
  if (is_plain) return text;
  std::string out = "'";
  for (const char letter : text) out += letter == '\'' ? "'\\''" : std::string(1, letter);
  return out + "'";
}

std::string one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char letter) { return letter < 0x20 || letter == 0x7f; }, ' ');
  return text;
}

/// What the script says by its own words, and by the launcher's flags.
struct Launch {
  std::string ranks = "1", gpus, checkpoint;
  std::vector<wan::Setting> flags;
};

Launch launch_of(const std::vector<wan::Setting>& settings) {
  Launch launch;
  for (const auto& one : settings) {
    if (one.flag == "world_size")
      launch.ranks = one.value;
    else if (one.flag == "gpu_ids")
      launch.gpus = one.value;
    else if (one.flag == "ckpt_dir")
      launch.checkpoint = one.value;
    else if (one.value != "false" || one.flag == "vae_parallel")
      launch.flags.push_back(one);
  }
  return launch;
}

/// As wan_t2v will read them; a file need not have a prompt.
void check(const std::vector<wan::Setting>& settings, const std::string& where) try {
  std::vector<std::string> words = {"--ckpt_dir", "DIR"};
  bool has_prompt = false;
  for (const auto& one : settings) {
    if (one.flag == "ckpt_dir") continue;
    words.push_back("--" + one.flag + "=" + one.value);
    has_prompt = has_prompt || one.flag.starts_with("prompt");
  }
  if (!has_prompt) words.insert(words.end(), {"--prompt", "TEXT"});
  wan::parse_options(words);
} catch (const wan::UsageError& error) {
  wan::refuse("{}: {}", where, error.what());
}

std::string script_of(const std::vector<wan::Field>& fields, std::vector<std::string> notes,
                      const std::string& where) {
  std::vector<std::string> known;
  const auto about = wan::about_wan_t2v();
  for (const auto& option : about.flags.options())
    if (!wan::is_about(option->long_name()) && option->long_name() != "config")
      known.push_back(option->long_name());
  const auto translated = wan::flags_of_fields(fields, known, where);
  check(translated.settings, where);
  notes.insert(notes.end(), translated.notes.begin(), translated.notes.end());
  const auto launch = launch_of(translated.settings);

  std::string script = fmt::format(
      "#!/usr/bin/env bash\n# Made by wanrun --create-script of {}: looks at the set-up, then makes the "
      "video.\n",
      one_line(where));
  for (const auto& note : notes) script += fmt::format("# note: {}\n", one_line(note));
  script += "# usage: CKPT [num_gpus] [flags of wan_t2v]\nset -euo pipefail\n";
  script += launch.checkpoint.empty()
                ? "ckpt=${1:?the folder of the checkpoint is missing: CKPT [num_gpus] [flags of wan_t2v]}\n"
                : fmt::format("ckpt=${{1:-{}}}\n", quoted(launch.checkpoint));
  script += fmt::format("ranks=${{2:-{}}}\nshift $(( $# < 2 ? $# : 2 ))\n", launch.ranks);
  script += fmt::format("PATH=$PATH:{}\n",
                        quoted(std::filesystem::read_symlink("/proc/self/exe").parent_path().string()));
  const auto start =
      fmt::format("wanrun -n \"$ranks\"{} --",
                  launch.gpus.empty()
                      ? ""
                      : " --gpus " + launch.gpus + (launch.gpus.find(',') == launch.gpus.npos ? "," : ""));
  script +=
      fmt::format("{} wan_check --ckpt_dir \"$ckpt\"\nexec {} wan_t2v --ckpt_dir \"$ckpt\"", start, start);
  for (const auto& one : launch.flags) script += fmt::format(" \\\n  --{}={}", one.flag, quoted(one.value));
  return script + " \\\n  \"$@\"\n";
}

}  // namespace

std::string script_of_config(const std::filesystem::path& file) {
  return script_of(wan::read_fields(file), {}, file.string());
}

std::string script_of_workflow(const std::filesystem::path& file) {
  std::error_code none;
  const bool is_file = std::filesystem::is_regular_file(file, none);  // a pipe would be waited for
  std::ifstream in(is_file ? file : "");
  if (!in) wan::refuse("--workflow {} cannot be read; give a workflow that ComfyUI has saved", file.string());
  std::ostringstream text;
  text << in.rdbuf();
  constexpr int kDepth = 100;  // what nests deeper than any workflow would end the process when it is walked
  const auto check = [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    if (depth > kDepth) wan::refuse("--workflow {} is nested too deeply for a workflow", file.string());
    return true;
  };
  const auto json = nlohmann::json::parse(text.str(), check, false);
  if (json.is_discarded()) wan::refuse("--workflow {} is not valid JSON", file.string());
  if (!wan::is_workflow(json)) return script_of_config(file);
  auto video = wan::video_of(wan::read_graph(json, file.string()), file.string());
  return script_of(video.fields, std::move(video.notes), file.string());
}

}  // namespace wanrun
