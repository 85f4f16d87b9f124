#include "wanrun/run.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "wanrun/environment.hpp"
#include "wanrun/rank_process.hpp"
#include "wanrun/watcher.hpp"

namespace wanrun {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{5};   // from asking a rank to end until it is made to
constexpr std::chrono::seconds kLastWords{1};  // for reading what ranks that have ended have printed

class Run {
 public:
  Run();
  ~Run();
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  void start(const CommandLine& line);
  int until_all_have_ended();

 private:
  bool is_running() const {
    return std::any_of(ranks_.begin(), ranks_.end(), [](auto& rank) { return rank.is_running(); });
  }
  int time_until_deadline() const;
  void read_signals();
  void read_lines(RankProcess::Pipe& pipe);
  void reap();
  void end_all(int signal);
  void kill_all();
  void report() const;

  Clock::time_point begin_ = Clock::now();
  int signals_;  // a file of those that have come
  Watcher watcher_;
  std::vector<RankProcess> ranks_;
  std::optional<size_t> first_failed_;
  std::optional<int> interrupted_by_;
  std::optional<Clock::time_point> deadline_;  // until ranks are made to end, or are no longer listened to
  double first_failed_after_ = 0;              // seconds
};

Run::Run() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int number : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, number);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signals_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0) throw std::system_error(errno, std::generic_category(), "signals");
}

/// Where it throws, those that have been started end with this.
void Run::start(const CommandLine& line) {
  const int port = line.master_port > 0 ? line.master_port : free_port();
  ranks_.reserve(static_cast<size_t>(line.ranks));
  for (int local = 0; local < line.ranks; ++local) {
    const int rank = line.host * line.ranks + local;
    const auto prefix = line.has_prefix ? fmt::format("[{}] ", rank) : "";
    ranks_.emplace_back(line.program, environment_of(line, local, port), rank, prefix, watcher_);
  }
}

Run::~Run() {
  kill_all();
  ::close(signals_);
}

int Run::until_all_have_ended() {
  const auto is_open = [](auto& rank) {
    return std::any_of(rank.pipes().begin(), rank.pipes().end(), [](auto& pipe) { return pipe.from >= 0; });
  };
  while (is_running() || std::any_of(ranks_.begin(), ranks_.end(), is_open)) {
    std::vector<pollfd> files{{signals_, POLLIN, 0}};
    std::vector<RankProcess::Pipe*> pipes;
    for (auto& rank : ranks_)
      for (auto& pipe : rank.pipes())
        if (pipe.from >= 0) files.push_back({pipe.from, POLLIN, 0}), pipes.push_back(&pipe);
    ::poll(files.data(), files.size(), time_until_deadline());
    for (size_t i = 0; i < pipes.size(); ++i)
      if (files[i + 1].revents) read_lines(*pipes[i]);
    if (files[0].revents) read_signals();
    if (!deadline_ || Clock::now() < *deadline_) continue;
    if (!is_running()) break;  // somebody whom a rank has started holds its output open
    kill_all();
  }
  for (auto& rank : ranks_)
    for (auto& pipe : rank.pipes()) pipe.lines.finish();
  report();
  if (interrupted_by_) return 128 + *interrupted_by_;
  return first_failed_ ? ranks_[*first_failed_].exit_code() : 0;
}

/// For poll: milliseconds, −1 for ever.
int Run::time_until_deadline() const {
  if (!deadline_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(0, left));
}

void Run::read_signals() {
  signalfd_siginfo signal;
  while (::read(signals_, &signal, sizeof signal) == sizeof signal) {
    const auto number = static_cast<int>(signal.ssi_signo);
    if (number == SIGCHLD) {
      reap();
    } else if (!interrupted_by_) {
      interrupted_by_ = number;
      end_all(number);
    } else {
      kill_all();  // asked for twice
    }
  }
}

void Run::read_lines(RankProcess::Pipe& pipe) {
  char bytes[1 << 16];
  const auto count = ::read(pipe.from, bytes, sizeof bytes);
  // Where nobody reads what we print, the rank is to find that out as it would without us.
  if (count > 0 && pipe.lines.add(bytes, static_cast<size_t>(count))) return;
  if (count < 0 && errno == EINTR) return;
  ::close(std::exchange(pipe.from, -1));
}

void Run::reap() {
  siginfo_t ended{};
  while (::waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid > 0) {
    const auto id = ended.si_pid;
    const auto rank = std::find_if(ranks_.begin(), ranks_.end(), [&](auto& one) { return one.id() == id; });
    if (rank != ranks_.end())
      rank->signal(SIGKILL);  // what it has left behind, while the number is still its own
    int status = 0;
    ::waitpid(id, &status, 0);
    ended = {};
    if (rank == ranks_.end()) continue;
    rank->ended(status);
    if (status != 0 && !first_failed_ && !interrupted_by_) {
      first_failed_ = static_cast<size_t>(rank - ranks_.begin());
      first_failed_after_ = std::chrono::duration<double>(Clock::now() - begin_).count();
      end_all(SIGTERM);
    }
  }
  if (!is_running()) deadline_ = Clock::now() + kLastWords;
}

void Run::end_all(int signal) {
  for (auto& rank : ranks_)
    if (rank.is_running()) rank.signal(signal);
  deadline_ = Clock::now() + kPatience;
}

void Run::kill_all() {
  for (auto& rank : ranks_)
    if (rank.is_running()) rank.signal(SIGKILL);
  deadline_.reset();
}

void Run::report() const {
  if (interrupted_by_ || !first_failed_) return;
  const auto& rank = ranks_[*first_failed_];
  fmt::print(stderr, "wanrun: rank {} failed first, {:.1f} s after the start: {}", rank.rank(),
             first_failed_after_, rank.how_it_ended());
  if (ranks_.size() > 1) fmt::print(stderr, "; the other ranks were ended");
  const auto& last = rank.errors().last();
  fmt::print(stderr, "; {}\n", last.empty() ? "it printed no error" : "the last that it printed:");
  for (auto& line : last) fmt::print(stderr, "  {}\n", line);
}

}  // namespace

int run(const CommandLine& line) {
  Run run;
  run.start(line);
  return run.until_all_have_ended();
}

}  // namespace wanrun
