#include "wan/cli/before_main.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// No C++ library is there yet: this is plain C on the system's calls.
namespace wan {
namespace {

/// What LibTorch's constructors take, and their libraries', beside the memory that is mapped already.
constexpr uint64_t kToStart = 64 << 20;

/// Pages of the process: all of them, and those of its data (proc(5), statm).
struct Pages {
  unsigned long all = 0, data = 0;
};

Pages pages() {
  Pages pages;
  char text[256] = {};
  const int file = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return pages;
  const auto size = ::read(file, text, sizeof text - 1);
  ::close(file);
  if (size <= 0 || std::sscanf(text, "%lu %*u %*u %*u %*u %lu", &pages.all, &pages.data) != 2) return {};
  return pages;
}

void require(const char* program, __rlimit_resource resource, unsigned long used, const char* how) {
  rlimit limit{};
  if (used == 0 || ::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const auto needed = static_cast<uint64_t>(used) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + kToStart;
  if (limit.rlim_cur >= needed) return;
  ::dprintf(STDERR_FILENO,
            "%s: LibTorch needs %lu MiB of memory to start, and %s allows %lu; raise that limit\n", program,
            static_cast<unsigned long>(needed >> 20), how, static_cast<unsigned long>(limit.rlim_cur >> 20));
  ::_exit(1);
}

}  // namespace

void before_main(int count, char** words, char**) {
  const auto* program = count > 0 ? ::basename(words[0]) : "wanpar";
  const auto used = pages();
  require(program, RLIMIT_AS, used.all, "ulimit -v");
  require(program, RLIMIT_DATA, used.data, "ulimit -d");
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) ::setenv("GOMP_SPINCOUNT", "1000", 0);
}

}  // namespace wan
