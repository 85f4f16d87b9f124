#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "wan/generate/stop.hpp"
#include "wan/serve/pace.hpp"
#include "wan/serve/record.hpp"
#include "wan/serve/records.hpp"

namespace wan::serve {

/// Something that happened to a job.
struct Event {
  std::string kind;  ///< job, preview, deleted
  std::string id, owner;
  std::string data;      ///< JSON
  bool is_last = false;  ///< the job is over
};

struct JobsOptions {
  std::filesystem::path folder;
  size_t capacity = 32;
  int64_t quota_bytes = int64_t{10} << 30;
  std::string model;
};

/// A job that is to be run now.
struct Ticket {
  Record record;
  std::shared_ptr<Stop> stop;
};

/// How a job ended.
struct Outcome {
  std::string status;  ///< completed, failed, cancelled
  std::string error_code = {}, error = {};
};

/// Where a running job is.
struct Stage {
  std::string phase;
  int64_t step = 0, steps = 0;
  double seconds_per_step = 0;
};

/// All jobs: those that wait, in their order, the one that runs, and those that are over. Records lie in
/// SQLite and files in folders, so that both are there after a restart. Safe to be used from several threads.
class Jobs {
 public:
  /// `tell` hears of events, on whatever thread they happen. Jobs that ran when a server ended here are
  /// failed now, those that waited wait again.
  Jobs(JobsOptions options, std::function<void(const Event&)> tell);

  // What callers do. An owner sees its own jobs only; Refusal where there is none of that id.

  /// Puts a job at the end of the queue: its view. Throws Refusal where the queue is full.
  nlohmann::json submit(Record record);
  nlohmann::json view(const std::string& id, const std::string& owner) const;
  std::vector<nlohmann::json> list(const Records::Wish& wish) const;
  nlohmann::json cancel(const std::string& id, const std::string& owner);
  void remove(const std::string& id, const std::string& owner);
  Record record(const std::string& id, const std::string& owner) const;
  /// The newest preview, a PNG; empty where there is none.
  std::string preview(const std::string& id, const std::string& owner) const;
  /// Views of what waits or runs.
  std::vector<nlohmann::json> live(const std::string& owner) const;
  const Records& records() const { return records_; }

  /// The folder of a job's files.
  std::filesystem::path folder_of(const std::string& id) const { return options_.folder / "videos" / id; }

  // What the ranks' thread does.

  /// Waits for the next job, which runs from now on; none when the jobs are closed.
  std::optional<Ticket> next();
  void at(const Stage& stage);
  void show(const std::string& png);
  void finish(const Outcome& outcome);

  // How it ends.

  /// No job begins from now on, and the one that runs is stopped: it has failed by `outcome`.
  void close(const Outcome& outcome);
  /// The same, without waiting for the ranks: what runs or waits has failed.
  void abandon(const Outcome& outcome);

  struct Counts {
    size_t waiting = 0, capacity = 0, videos = 0;
    std::string running;
    int64_t used_bytes = 0, quota_bytes = 0;
    std::map<std::string, uint64_t> ended;  ///< since the start, by status
    uint64_t accepted = 0, refused = 0;
    double run_seconds = 0, queue_seconds = 0;
  };
  Counts counts() const;
  std::optional<double> seconds_of(const nlohmann::json& settings) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    Record record;
    std::shared_ptr<Stop> stop;
    Stage stage;
    Clock::time_point began, stage_began;
    double step_seconds = 0, denoise_seconds = 0;
    bool is_deleted = false;
    std::string preview;
  };

  bool is_visible(const Record& record, const std::string& owner) const;
  nlohmann::json view(const Record& record) const;
  std::optional<double> seconds_left() const;
  void tell(const Record& record);
  void tell_order();
  void forget(Record& record);
  void end(Record& record, const Outcome& outcome);
  void keep_quota();

  JobsOptions options_;
  std::function<void(const Event&)> tell_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Records records_;
  std::deque<Record> waiting_;
  std::optional<Running> running_;
  std::optional<Outcome> closed_;
  Pace pace_;
  Counts counts_;
};

/// Now, in seconds since 1970.
int64_t now();

}  // namespace wan::serve
