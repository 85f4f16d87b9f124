#include "wan_top/proc.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <set>
#include <sstream>
#include <tuple>

namespace wan_top {
namespace fs = std::filesystem;
namespace {

/// What follows a word at the beginning of a line; empty where no line begins so.
std::string behind(const std::string& text, const std::string& word) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(word)) continue;
    const auto begin = line.find_first_not_of(" \t:", word.size());
    return begin == line.npos ? "" : line.substr(begin);
  }
  return {};
}

std::optional<int> whole(const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

/// What launchers tell a process: its rank and their number, and a word that all ranks of a run have alike.
struct Launcher {
  const char *rank, *ranks, *run;
};
constexpr Launcher kLaunchers[] = {
    {"RANK", "WORLD_SIZE", "MASTER_PORT"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_ess_base_jobid"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"},
    {"PMI_RANK", "PMI_SIZE", "PMI_PORT"}};

const char* state_named(char letter) {
  switch (letter) {
    case 'R':
      return "running";
    case 'S':
      return "waiting";
    case 'D':
      return "waiting for a disk";
    case 'T':
    case 't':
      return "stopped";
    case 'Z':
      return "ended";
    default:
      return "?";
  }
}

}  // namespace

std::string Proc::text(const fs::path& file) const {
  std::ifstream stream(root_ / file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::optional<double> Proc::number(const fs::path& file) const {
  std::istringstream stream(text(file));
  double value = 0;
  return stream >> value ? std::optional(value) : std::nullopt;
}

/// Of all folders there whose name begins so, the greatest number in that file.
std::optional<double> Proc::highest(const std::string& folder, const std::string& prefix,
                                    const std::string& file) const {
  std::optional<double> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root_ / folder, none)) {
    const auto name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    if (const auto value = number(fs::path(folder) / name / file); value && value > found) found = value;
  }
  return found;
}

/// Watts since the last look, from the processors' own meter (RAPL).
std::optional<double> Proc::power() {
  const auto energy = highest("sys/class/powercap", "intel-rapl:0", "energy_uj");
  const auto now = std::chrono::steady_clock::now();
  std::optional<double> watts;
  if (energy && energy_ && *energy >= *energy_)
    watts = (*energy - *energy_) / 1e6 / std::chrono::duration<double>(now - energy_at_).count();
  energy_ = energy;
  energy_at_ = now;
  return watts;
}

Device Proc::host() {
  Device device;
  const auto processors = text("proc/cpuinfo");
  device.name = behind(processors, "model name");
  if (device.name.empty()) device.name = "processors";

  const auto memory = text("proc/meminfo");
  const auto bytes = [&](const char* word) -> std::optional<uint64_t> {
    std::istringstream stream(behind(memory, word));
    uint64_t kilobytes = 0;
    return stream >> kilobytes ? std::optional(kilobytes * 1024) : std::nullopt;
  };
  device.memory_total = bytes("MemTotal");
  if (const auto available = bytes("MemAvailable"); available && device.memory_total)
    device.memory_used = *device.memory_total - *available;

  std::istringstream ticks(behind(text("proc/stat"), "cpu "));
  double value = 0;
  Ticks now;
  for (int column = 0; column < 8 && ticks >> value; ++column) {
    now.all += value;
    if (column != 3 && column != 4) now.busy += value;  // idle, and idle for a disk
  }
  if (now.all > host_ticks_.all)
    device.utilisation = 100 * (now.busy - host_ticks_.busy) / (now.all - host_ticks_.all);
  host_ticks_ = now;

  if (const auto heat = highest("sys/class/thermal", "thermal_zone", "temp"))
    device.temperature = *heat / 1000;
  device.power = power();
  if (const auto clock = behind(processors, "cpu MHz"); !clock.empty()) device.clock = std::stod(clock);
  if (const auto limit = highest("sys/devices/system/cpu", "cpu", "cpufreq/cpuinfo_max_freq"))
    device.clock_limit = *limit / 1000;
  const auto throttles =
      highest("sys/devices/system/cpu", "cpu", "thermal_throttle/core_throttle_count").value_or(0);
  if (throttles_ >= 0 && throttles > throttles_) device.throttled_by.emplace_back("temperature");
  throttles_ = throttles;
  return device;
}

std::optional<Rank> Proc::rank_of(int process) {
  const auto folder = fs::path("proc") / std::to_string(process);
  std::map<std::string, std::string> variables;
  std::istringstream stream(text(folder / "environ"));
  for (std::string entry; std::getline(stream, entry, '\0');)
    if (const auto equals = entry.find('='); equals != entry.npos)
      variables[entry.substr(0, equals)] = entry.substr(equals + 1);

  Rank found;
  found.process = process;
  for (const auto& launcher : kLaunchers) {
    const auto rank = whole(variables[launcher.rank]), ranks = whole(variables[launcher.ranks]);
    if (!rank || !ranks) continue;
    found.rank = *rank;
    found.ranks = *ranks;
    found.run = variables[launcher.run];
    break;
  }
  if (found.run.empty() && found.ranks == 1) return {};

  // "PID (name) S 1 2 …": a name may hold anything.
  const auto status = text(folder / "stat");
  const auto open = status.find('('), close = status.rfind(')');
  if (open == status.npos || close == status.npos || close + 2 >= status.size()) return {};  // it has ended
  found.program = status.substr(open + 1, close - open - 1);
  found.state = state_named(status[close + 2]);
  std::istringstream fields(status.substr(close + 4));
  std::vector<double> numbers;
  for (double value = 0; fields >> value;) numbers.push_back(value);
  if (numbers.size() > 20) {
    const auto per_second = static_cast<double>(::sysconf(_SC_CLK_TCK));
    const auto used = (numbers[10] + numbers[11]) / per_second, began = numbers[18] / per_second;
    const auto uptime = number("proc/uptime").value_or(0);
    const auto last = ticks_of_processes_.find(process);
    const auto [used_before, then] = last == ticks_of_processes_.end() ? std::pair(0.0, began) : last->second;
    if (uptime > then) found.utilisation = 100 * (used - used_before) / (uptime - then);
    ticks_of_processes_[process] = {used, uptime};
    found.memory = static_cast<uint64_t>(numbers[20]) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  return found;
}

std::vector<Rank> Proc::ranks() {
  std::vector<Rank> ranks;
  std::set<int> processes;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root_ / "proc", none))
    if (const auto process = whole(entry.path().filename().string())) processes.insert(*process);
  std::erase_if(ticks_of_processes_, [&](const auto& one) { return !processes.contains(one.first); });
  for (const auto process : processes)
    if (auto rank = rank_of(process)) ranks.push_back(std::move(*rank));
  // What a rank starts, or is started by, has its variables too: the one that holds most is the rank.
  std::sort(ranks.begin(), ranks.end(), [](const Rank& a, const Rank& b) {
    return std::tie(a.run, a.rank, b.memory, a.process) < std::tie(b.run, b.rank, a.memory, b.process);
  });
  const auto is_same = [](const Rank& a, const Rank& b) { return a.run == b.run && a.rank == b.rank; };
  ranks.erase(std::unique(ranks.begin(), ranks.end(), is_same), ranks.end());
  return ranks;
}

}  // namespace wan_top
