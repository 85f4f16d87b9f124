#include "wanrun/rank_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
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

/// False where nobody reads it any more.
bool write_all(int to, const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const auto count = ::write(to, text.data() + at, text.size() - at);
    if (count > 0) at += static_cast<size_t>(count);
    if (count >= 0 || errno == EINTR) continue;
    if (errno != EAGAIN) return false;
    pollfd file{to, POLLOUT, 0};  // one that does not block was given to us
    ::poll(&file, 1, -1);
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
  bool is_read = true;
  for (size_t i = 0; i < count; ++i) {
    const bool is_end = bytes[i] == '\n' || bytes[i] == '\r';
    if (!is_end)
      open_ += bytes[i];
    else if (bytes[i] == '\n' && open_.empty() && is_behind_return_)
      is_read &= write_all(to_, "\n");  // of the line that \r has shown
    else
      is_read &= print(bytes[i]);
    is_behind_return_ = bytes[i] == '\r';
  }
  return is_read;
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
  return write_all(to_, prefix_ + line + end);
}

RankProcess::RankProcess(const std::vector<std::string>& program, const std::vector<std::string>& environment,
                         int rank, const std::string& prefix)
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
