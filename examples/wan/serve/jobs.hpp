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

/// An event of a job.
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

/// A job to run now.
struct Ticket {
  Record record;
  std::shared_ptr<Stop> stop;
};

/// The outcome of a job.
struct Outcome {
  std::string status;  ///< completed, failed, cancelled
  std::string error_code = {}, error = {};
};

/// The progress of a running job.
struct Stage {
  std::string phase;
  int64_t step = 0, steps = 0;
  double seconds_per_step = 0;
};

/// All jobs: waiting ones, in order, the running one, and finished ones. Records are in SQLite and files in
/// folders, so that both survive a restart. Thread-safe.
class Jobs {
 public:
  /// `tell` is called with events, on any thread. Jobs that were running when a server ended are marked as
  /// failed, waiting ones are queued again.
  Jobs(JobsOptions options, std::function<void(const Event&)> tell);

  // For HTTP requests. An owner sees only its own jobs; throws Refusal if there is none with that id.

  /// Appends a job to the queue; returns its view. Throws Refusal if the queue is full.
  nlohmann::json submit(Record record);
  nlohmann::json view(const std::string& id, const std::string& owner) const;
  std::vector<nlohmann::json> list(const Records::Wish& wish) const;
  nlohmann::json cancel(const std::string& id, const std::string& owner);
  void remove(const std::string& id, const std::string& owner);
  Record record(const std::string& id, const std::string& owner) const;
  /// The latest preview, a PNG; empty if there is none.
  std::string preview(const std::string& id, const std::string& owner) const;
  /// Views of waiting and running jobs.
  std::vector<nlohmann::json> live(const std::string& owner) const;
  const Records& records() const { return records_; }

  /// The folder of a job's files.
  std::filesystem::path folder_of(const std::string& id) const { return options_.folder / "videos" / id; }

  // For the thread of rank 0 that runs jobs.

  /// Waits for the next job, which is running from now on; nullopt when the queue is closed.
  std::optional<Ticket> next();
  void at(const Stage& stage);
  void show(const std::string& png);
  void finish(const Outcome& outcome);

  // For the shutdown.

  /// Starts no further job, and stops the running one, which fails with `outcome`.
  void close(const Outcome& outcome);
  /// As above, without waiting for the ranks: running and waiting jobs fail.
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

/// The current time, in seconds since 1970.
int64_t now();

}  // namespace wan::serve
