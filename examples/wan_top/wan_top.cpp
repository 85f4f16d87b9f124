// What the devices of this host do, and the ranks of runs on it: on one screen that is shown again, once, or
// as JSON for scripts.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <boost/program_options.hpp>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "wan_top/nvml.hpp"
#include "wan_top/proc.hpp"
#include "wan_top/show.hpp"

namespace {

namespace po = boost::program_options;

volatile std::sig_atomic_t is_asked_to_end = 0;

struct Options {
  bool help = false, version = false, once = false, json = false;
  double interval = 1;  ///< seconds
};

po::options_description flags() {
  po::options_description known;
  known.add_options()                                                              //
      ("once", "one look, and the end")                                            //
      ("json", "a line of JSON for each look: bytes, percent, degrees C, W, MHz")  //
      ("interval", po::value<std::string>()->value_name("SECONDS"),
       "between two looks, 0.1 to 3600 (default 1)")  //
      ("help", "this text")("version", "the version");
  return known;
}

Options parse(int argc, char** argv) {
  po::variables_map values;
  po::store(po::command_line_parser(argc, argv).options(flags()).positional({}).run(), values);
  Options options;
  options.help = values.count("help");
  options.version = values.count("version");
  options.once = values.count("once");
  options.json = values.count("json");
  if (values.count("interval")) {
    const auto& text = values["interval"].as<std::string>();
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), options.interval);
    if (error != std::errc() || end != text.data() + text.size() || !(options.interval >= 0.1) ||
        options.interval > 3600)
      throw po::error(fmt::format("--interval '{}' is no number of seconds from 0.1 to 3600", text));
  }
  return options;
}

wan_top::Reading look(const wan_top::Nvml* nvml, wan_top::Proc& proc) {
  wan_top::Reading reading;
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  reading.host = host.data();
  reading.source = nvml ? "NVML" : "/proc";
  reading.devices = nvml ? nvml->devices() : std::vector{proc.host()};
  reading.ranks = proc.ranks();
  for (auto& rank : reading.ranks)
    for (const auto& device : reading.devices)
      if (const auto held = device.memory_of_processes.find(rank.process);
          held != device.memory_of_processes.end()) {
        rank.devices.push_back(device.index);
        rank.device_memory = rank.device_memory.value_or(0) + held->second;
      }
  return reading;
}

size_t width_of_screen() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 1000;
}

void run(const Options& options) {
  const auto nvml = wan_top::Nvml::open();
  wan_top::Proc proc;
  const bool is_screen = ::isatty(STDOUT_FILENO) && !options.once && !options.json;
  constexpr std::chrono::milliseconds kAtLeast(200);  // for how busy all are, one look is none
  look(nvml.get(), proc);
  std::this_thread::sleep_for(kAtLeast);
  while (!is_asked_to_end) {
    const auto reading = look(nvml.get(), proc);
    if (is_screen) fmt::print("\033[H\033[2J");
    fmt::print("{}", options.json ? wan_top::json(reading) : wan_top::screen(reading, width_of_screen()));
    if (std::fflush(stdout) != 0) throw std::runtime_error("what is shown cannot be written");
    if (options.once) return;
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval));
  }
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kFailed = 1, kMisused = 2;
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGINT, [](int) { is_asked_to_end = 1; });
  std::signal(SIGTERM, [](int) { is_asked_to_end = 1; });
  try {
    const auto options = parse(argc, argv);
    if (options.help) {
      std::ostringstream text;
      text << "wan_top: what the devices of this host do, and the ranks of runs on it.\n\n" << flags();
      fmt::print("{}", text.str());
    } else if (options.version) {
      fmt::print("wan_top {}\n", WANPAR_VERSION);
    } else {
      run(options);
    }
    return 0;
  } catch (const po::error& error) {
    fmt::print(stderr, "wan_top: {}\n", error.what());
    return kMisused;
  } catch (const std::exception& error) {
    fmt::print(stderr, "wan_top: {}\n", error.what());
    return kFailed;
  }
}
