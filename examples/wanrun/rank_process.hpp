#pragma once
#include <sys/types.h>

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "wanrun/watcher.hpp"

namespace wanrun {

/// What one rank prints: whole lines are handed on, with a prefix, or all of it as it comes where there is
/// none; the last lines are remembered.
class Lines {
 public:
  Lines(int to, std::string prefix) : to_(to), prefix_(std::move(prefix)) {}

  /// False where nobody reads them any more.
  bool add(const char* bytes, size_t count);
  /// What is left at the end without a line's end.
  void finish();
  const std::deque<std::string>& last() const { return last_; }

 private:
  bool is_raw() const { return prefix_.empty(); }
  bool print(char end);

  int to_;
  std::string prefix_, open_;
  bool is_behind_return_ = false;
  std::deque<std::string> last_;
};

/// A rank: a process group of its own, whose output comes through pipes.
class RankProcess {
 public:
  /// Throws std::system_error, naming the program, where it cannot be started.
  RankProcess(const std::vector<std::string>& program, const std::vector<std::string>& environment, int rank,
              const std::string& prefix, const Watcher& watcher);
  RankProcess(RankProcess&&) = default;

  pid_t id() const { return id_; }
  int rank() const { return rank_; }
  bool is_running() const { return !status_; }
  /// As the shell has it: 128 and the signal's number where one ended it.
  int exit_code() const;
  std::string how_it_ended() const;
  void ended(int status) { status_ = status; }
  /// To it and all that it has started; it has not been reaped.
  void signal(int number) const;

  struct Pipe {
    int from;  ///< −1 where it is closed
    Lines lines;
  };
  std::vector<Pipe>& pipes() { return pipes_; }
  const Lines& errors() const { return pipes_[1].lines; }

 private:
  pid_t id_ = 0;
  int rank_;
  std::optional<int> status_;
  std::vector<Pipe> pipes_;  // of its stdout and its stderr
};

}  // namespace wanrun
