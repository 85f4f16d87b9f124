#include "wan/generate/room.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <new>
#include <optional>
#include <regex>
#include <system_error>
#include <wanpar/core/error.hpp>

namespace wan {
namespace {

/// The number that follows `name` in a file of names and numbers; the first number if `name` is empty.
std::optional<uint64_t> number_in(const std::string& file, const std::string& name = "") {
  std::ifstream in(file);
  std::string word;
  while (in >> word) {
    if (!name.empty() && word != name) continue;
    if (!name.empty()) in >> word;
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    return error == std::errc() && end == word.data() + word.size() ? std::optional(number) : std::nullopt;
  }
  return std::nullopt;
}

void lower(Room& room, uint64_t limit, uint64_t used, const std::string& what) {
  const auto left = limit > used ? limit - used : 0;
  if (left < room.bytes) room = {left, what};
}

/// The limits of a control group and of its parents. `used` and `reclaimable` are names of files and fields.
void lower_by_groups(Room& room, const std::string& root, std::string group, const char* limit,
                     const char* used, const char* reclaimable) {
  for (;; group.erase(group.find_last_of('/'))) {
    const auto folder = root + group + "/";
    const auto most = number_in(folder + limit);
    const auto taken = number_in(folder + used);
    const auto back = number_in(folder + "memory.stat", reclaimable).value_or(0);  // page cache
    if (most && taken)
      lower(room, *most, *taken > back ? *taken - back : 0, "the memory limit of its control group");
    if (group.find('/') == std::string::npos) return;
  }
}

void lower_by_groups(Room& room) {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    auto group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers.empty())
      lower_by_groups(room, "/sys/fs/cgroup", group, "memory.max", "memory.current", "inactive_file");
    else if (controllers.find("memory") != std::string::npos)
      lower_by_groups(room, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes",
                      "total_inactive_file");
  }
}

void lower_by_limit(Room& room, int resource, uint64_t used, const char* what) {
  rlimit limit{};
  if (::getrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    lower(room, limit.rlim_cur, used, what);
}

uint64_t kibibytes_of(const char* name) { return 1024 * number_in("/proc/self/status", name).value_or(0); }

/// The number of bytes that the exception's message says were requested.
std::optional<uint64_t> asked_for(const std::string& text) {
  static const std::regex pattern(R"((?:allocate|Tried to allocate) (\d+)\s*(?:bytes|B\b))");
  std::smatch found;
  if (!std::regex_search(text, found, pattern)) return std::nullopt;
  return std::stoull(found[1]);
}

bool is_of_memory(const std::string& text) {
  for (const auto* mark : {"can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc",
                           "could not create a memory", "not enough memory", "unable to allocate"})
    if (text.find(mark) != std::string::npos) return true;
  return false;
}

std::string out_of_memory(const std::string& phase, std::optional<uint64_t> asked) {
  const auto left = room();
  return fmt::format(
      "memory ran out {}: {}{} are left by {}; raise that, or take a smaller --size or --frame_num, fewer "
      "--local_ranks, --dtype bfloat16, or --dit_fsdp and --t5_fsdp on more ranks",
      phase, asked ? fmt::format("{} were asked for, and ", gibibytes(*asked)) : "", gibibytes(left.bytes),
      left.limit);
}

}  // namespace

Room room() {
  Room room{std::numeric_limits<uint64_t>::max(), "the machine"};
  if (const auto free = number_in("/proc/meminfo", "MemAvailable:"))
    lower(room, 1024 * *free, 0, "this machine");
  lower_by_groups(room);
  lower_by_limit(room, RLIMIT_AS, kibibytes_of("VmSize:"), "the limit of its address space (ulimit -v)");
  lower_by_limit(room, RLIMIT_DATA, kibibytes_of("VmData:"), "the limit of its data (ulimit -d)");
  return room;
}

std::string gibibytes(uint64_t bytes) {
  const auto mebi = static_cast<double>(bytes) / (1 << 20);
  return mebi < 1024 ? fmt::format("{:.0f} MiB", mebi) : fmt::format("{:.1f} GiB", mebi / 1024);
}

std::string sentence_of_failure(const std::string& phase) {
  try {
    throw;
  } catch (const wanpar::Error& error) {
    return error.what();
  } catch (const std::bad_alloc&) {
    return out_of_memory(phase, {});
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again)
      return fmt::format(
          "no more threads could be started {}: raise the limit (ulimit -u, or pids.max of its "
          "control group), or take fewer --local_ranks or OMP_NUM_THREADS=1",
          phase);
    return error.what();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return is_of_memory(text) ? out_of_memory(phase, asked_for(text)) : text.substr(0, text.find('\n'));
  }
}

}  // namespace wan
