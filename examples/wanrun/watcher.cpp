#include "wanrun/watcher.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <vector>

namespace wanrun {
namespace {

constexpr pid_t kDismissed = 0;

[[noreturn]] void watch_until_dismissed(int from) {
  ::setsid();  // no signal of the terminal's comes here
  for (int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(number, SIG_IGN);
  std::vector<pid_t> groups;
  pid_t group = 0;
  while (true) {
    const auto count = ::read(from, &group, sizeof group);
    if (count < 0 && errno == EINTR) continue;
    if (count != sizeof group) break;  // the launcher is gone
    if (group == kDismissed) ::_exit(0);
    groups.push_back(group);
  }
  for (auto one : groups) ::kill(-one, SIGKILL);
  ::_exit(0);
}

}  // namespace

Watcher::Watcher() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "a pipe");
  id_ = ::fork();
  if (id_ < 0) throw std::system_error(errno, std::generic_category(), "a process that watches");
  if (id_ == 0) {
    ::close(ends[1]);
    watch_until_dismissed(ends[0]);
  }
  ::close(ends[0]);
  to_ = ends[1];
}

Watcher::~Watcher() {
  (void)!::write(to_, &kDismissed, sizeof kDismissed);
  ::close(to_);
  ::waitpid(id_, nullptr, 0);
}

void Watcher::watch(pid_t group) const { (void)!::write(to_, &group, sizeof group); }

}  // namespace wanrun
