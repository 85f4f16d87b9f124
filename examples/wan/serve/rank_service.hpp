#pragma once
#include <unistd.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/launch/connect.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "wan/generate/shared_transformer.hpp"
#include "wan/serve/heartbeat.hpp"
#include "wan/serve/http_frontend.hpp"
#include "wan/serve/options.hpp"
#include "wan/serve/video_maker.hpp"

namespace wan::serve {

/// The role of this process in the run.
struct RankServiceOptions {
  wanpar::Place place;
  int64_t ranks = 1;
  bool are_networks_kept = true;
};

/// The ranks of this process: rank 0 takes jobs from the queue and broadcasts them, and all ranks make them
/// together, until rank 0 ends the service.
class RankService {
 public:
  /// `front` has the queue and the HTTP server of rank 0; null in other processes. `job` is a stand-in for
  /// jobs to come.
  RankService(RankServiceOptions options, HttpFrontend* front, std::shared_ptr<const Source> source, Job job,
              at::Device device);

  /// Collective over all ranks. Runs until the service ends.
  void run(const wanpar::Communicator& world);

  /// This process has received a signal, which ends all ranks.
  void stop(int signal);
  /// A rank of another process is lost: fails the jobs that run or wait, and ends this process.
  [[noreturn]] void lose(const std::string& sentence);
  /// The signal that ended all ranks, or 0.
  int ended_by() const { return ended_by_; }

 private:
  struct Told;

  wanpar::Communicator office_of(const wanpar::Communicator& world) const;
  void work(VideoMaker& maker, const wanpar::Communicator& office, int rank);
  void lead(VideoMaker& maker, const wanpar::Communicator& office);
  Job job_of(const Flags& flags, int64_t ranks) const;
  Outcome make(VideoMaker& maker, const wanpar::Communicator& office, const Told& told,
               const VideoMaker::Watch& watch) const;
  Beat beat(int rank) const;
  void hear(const std::vector<Beat>& beats);
  void meet_neighbours(const wanpar::Communicator& world);

  RankServiceOptions options_;
  const int parent_ = ::getppid();
  HttpFrontend* frontend_;
  std::shared_ptr<const Source> source_;
  Job job_;
  at::Device device_;
  SharedTransformer shared_;
  std::vector<std::atomic<int64_t>> step_microseconds_;   // of this process's ranks
  std::vector<std::pair<std::string, std::string>> who_;  // host and device of each rank
  std::vector<int> neighbours_;                           // by rank: a handle of its process, -1 elsewhere
  std::atomic<int> signal_ = 0, ended_by_ = 0;
  std::atomic<bool> is_over_ = false, is_losing_ = false;
};

}  // namespace wan::serve
