// Starts a program as the ranks of a run: wanrun -n 4 -- program arguments.
#include <fcntl.h>
#include <fmt/format.h>

#include <exception>

#include "wanrun/command_line.hpp"
#include "wanrun/run.hpp"

int main(int argc, char** argv) {
  constexpr int kFailed = 1, kMisused = 2;
  while (::open("/dev/null", O_RDWR) <= 2) continue;  // pipes of ours do not take the numbers of closed ones
  try {
    const auto line = wanrun::parse_command_line({argv + 1, argv + argc});
    if (!line.answer) return wanrun::run(line);
    fmt::print("{}", *line.answer);
    return 0;
  } catch (const wanrun::UsageError& error) {
    fmt::print(stderr, "wanrun: {}\n", error.what());
    return kMisused;
  } catch (const std::exception& error) {
    fmt::print(stderr, "wanrun: {}\n", error.what());
    return kFailed;
  }
}
