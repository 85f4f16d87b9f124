#include "wanrun/rank_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <system_error>
#include <utility>

namespace wanrun {
namespace {

constexpr size_t kRemembered = 12;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("a pipe");
  return ends;
}

/// Until PIPE_BUF bytes can be written; false where a signal has come that is to end us meanwhile.
bool waits_for_room(int to) {
  constexpr int kMilliseconds = 100;
  while (true) {
    pollfd file{to, POLLOUT, 0};
    if (::poll(&file, 1, kMilliseconds) != 0) return true;
    sigset_t come;
    ::sigpending(&come);
    for (int number : {SIGINT, SIGTERM, SIGHUP})
      if (::sigismember(&come, number)) return false;
  }
}

/// False where nobody reads it any more.
bool write_all(int to, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    if (!waits_for_room(to)) return false;
    const auto count = ::write(to, text.data() + at, std::min<size_t>(text.size() - at, PIPE_BUF));
    if (count > 0) at += static_cast<size_t>(count);
    if (count >= 0 || errno == EINTR) continue;
    if (errno != EAGAIN) return false;
  }
  return true;
}

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (auto& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

bool Lines::add(const char* bytes, size_t count) {
  if (is_raw() && !write_all(to_, std::string(bytes, count))) return false;
  for (size_t i = 0; i < count; ++i) {
    const bool is_end = bytes[i] == '\n' || bytes[i] == '\r';
    const bool is_shown = bytes[i] == '\n' && open_.empty() && is_behind_return_;  // by the \r before it
    is_behind_return_ = bytes[i] == '\r';
    if (!is_end)
      open_ += bytes[i];
    else if (!(is_shown ? is_raw() || write_all(to_, "\n") : print(bytes[i])))
      return false;
  }
  return true;
}

void Lines::finish() {
  if (!open_.empty()) print('\n');
}

bool Lines::print(char end) {
  const auto line = std::exchange(open_, {});
  if (!line.empty() && end == '\n') {
    last_.push_back(line);
    if (last_.size() > kRemembered) last_.pop_front();
  }
  return is_raw() || write_all(to_, prefix_ + line + end);
}

RankProcess::RankProcess(const std::vector<std::string>& program, const std::vector<std::string>& environment,
                         int rank, const std::string& prefix, const Watcher& watcher)
    : rank_(rank) {
  const auto out = make_pipe(), error = make_pipe(), failure = make_pipe();
  const auto words = pointers_to(program), variables = pointers_to(environment);
  const auto launcher = ::getpid();
  id_ = ::fork();
  if (id_ < 0) fail("a process for rank " + std::to_string(rank));
  if (id_ == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != launcher) ::_exit(1);
    watcher.watch(::getpid());
    ::signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    const int nothing = ::open("/dev/null", O_RDONLY);
    // A terminal is not read by a background group; what is piped in is rank 0's.
    if (rank > 0 || ::isatty(STDIN_FILENO)) ::dup2(nothing, STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(error[1], STDERR_FILENO);
    ::execvpe(words[0], words.data(), variables.data());
    const int why = errno;
    (void)!::write(failure[1], &why, sizeof why);
    ::_exit(127);
  }
  ::setpgid(id_, id_);
  for (int end : {out[1], error[1], failure[1]}) ::close(end);
  int why = 0;
  const bool has_failed = ::read(failure[0], &why, sizeof why) == sizeof why;
  ::close(failure[0]);
  if (has_failed) {
    ::waitpid(id_, nullptr, 0);
    errno = why;
    fail(fmt::format("cannot start '{}'", program[0]));
  }
  pipes_.push_back({out[0], Lines(STDOUT_FILENO, prefix)});
  pipes_.push_back({error[0], Lines(STDERR_FILENO, prefix)});
}

int RankProcess::exit_code() const {
  return WIFSIGNALED(*status_) ? 128 + WTERMSIG(*status_) : WEXITSTATUS(*status_);
}

std::string RankProcess::how_it_ended() const {
  if (!WIFSIGNALED(*status_)) return fmt::format("exit code {}", WEXITSTATUS(*status_));
  return fmt::format("signal {}, {}", WTERMSIG(*status_), ::strsignal(WTERMSIG(*status_)));
}

void RankProcess::signal(int number) const { ::kill(-id_, number); }

}  // namespace wanrun
