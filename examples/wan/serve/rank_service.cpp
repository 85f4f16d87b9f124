#include "wan/serve/rank_service.hpp"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <thread>
#include <wanpar/core/agreement.hpp>

#include "wan/generate/decode.hpp"
#include "wan/generate/needs.hpp"
#include "wan/generate/room.hpp"
#include "wan/io/pixels.hpp"
#include "wan/io/png.hpp"
#include "wan/serve/preview.hpp"

namespace wan::serve {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

/// Ranks wait for work as long as it takes: that all are there, their hearts say.
constexpr std::chrono::hours kForWork{24 * 30};
constexpr std::chrono::seconds kUntilHeartSays{5};

/// Collective. The text of rank 0, however long, on every rank.
std::string told(const wanpar::Communicator& office, const std::string& text) {
  const auto patient = office.with_timeout(kForWork);
  if (office.size() == 1) return text;
  const auto length = patient.broadcast(at::full({1}, static_cast<int64_t>(text.size()), at::kLong), 0).get();
  auto bytes = at::zeros({length.item<int64_t>()}, at::kByte);
  if (office.rank() == 0) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  bytes = patient.broadcast(std::move(bytes), 0).get();
  return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())};
}

/// Memory of this process, in bytes, by the name that the kernel has for it.
int64_t memory_of_process(const std::string& name) {
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;) {
    int64_t kibibytes = 0;
    if (word == name && in >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

/// What two processes have alike from where one can end the other.
std::string kernel_and_namespace() {
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(boot, id);
  std::error_code no;
  return id + " " + fs::read_symlink("/proc/self/ns/pid", no).string();
}

int handle_of(pid_t process) { return static_cast<int>(::syscall(SYS_pidfd_open, process, 0)); }

/// A port of this host that is free now.
int free_port() {
  const int probe = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  socklen_t size = sizeof(any);
  ::bind(probe, reinterpret_cast<sockaddr*>(&any), size);
  ::getsockname(probe, reinterpret_cast<sockaddr*>(&any), &size);
  ::close(probe);
  return ntohs(any.sin_port);
}

std::vector<int64_t> ranks_named(const std::string& sentence) {
  static const std::regex name("rank ([0-9]+)");
  std::set<int64_t> ranks;
  for (std::sregex_iterator at(sentence.begin(), sentence.end(), name), end; at != end; ++at)
    ranks.insert(std::stoll((*at)[1]));
  return {ranks.begin(), ranks.end()};
}

/// Brings the progress of the running job to its callers.
class ToldProgress : public Progress {
 public:
  explicit ToldProgress(Jobs& jobs) : jobs_(jobs) {}

  void start(std::string phase, int64_t steps) override {
    stage_ = {.phase = std::move(phase), .steps = steps};
    jobs_.at(stage_);
  }
  void update(int64_t done) override {
    stage_.step = done;
    jobs_.at(stage_);
  }

 private:
  Jobs& jobs_;
  Stage stage_;
};

/// Shows what latents look like, four times a second at most.
class ShownLatents {
 public:
  ShownLatents(const Preview& preview, Jobs& jobs) : preview_(preview), jobs_(jobs) {}

  void operator()(const Step& step) {
    const auto now = std::chrono::steady_clock::now();
    if (now < next_ && step.number < step.steps) return;
    jobs_.show(preview_.png(step.foreseen().squeeze(0)));
    next_ = now + milliseconds(250);
  }

 private:
  const Preview& preview_;
  Jobs& jobs_;
  std::chrono::steady_clock::time_point next_;
};

Outputs outputs_in(const fs::path& folder, bool with_tensors) {
  return {folder / "video.mp4", folder / "spritesheet.png",
          with_tensors ? folder / "tensors.safetensors" : ""};
}

/// The middle frame, at most 320 pixels wide.
void write_thumbnail(const fs::path& file, const at::Tensor& frames) {
  constexpr int64_t kWidth = 320;
  const auto frame = frames.select(1, frames.size(1) / 2);
  const auto factor = (frame.size(2) + kWidth - 1) / kWidth;
  write_png(file, to_pixels(factor > 1 ? at::avg_pool2d(frame, factor) : frame));
}

}  // namespace

/// What rank 0 says to all.
struct RankService::Told {
  bool is_over = false;
  int signal = 0;
  Flags flags = {};
  int64_t ranks = 1;
  bool with_tensors = false;

  std::string text() const {
    return nlohmann::json{
        {"over", is_over}, {"signal", signal}, {"flags", flags}, {"ranks", ranks}, {"tensors", with_tensors}}
        .dump();
  }
  static Told of(const std::string& text) {
    const auto json = nlohmann::json::parse(text);
    return {.is_over = json.at("over").get<bool>(),
            .signal = json.at("signal").get<int>(),
            .flags = json.at("flags").get<Flags>(),
            .ranks = json.at("ranks").get<int64_t>(),
            .with_tensors = json.at("tensors").get<bool>()};
  }
};

RankService::RankService(RankServiceOptions options, HttpFrontend* front,
                         std::shared_ptr<const Source> source, Job job, at::Device device)
    : options_(std::move(options)),
      frontend_(front),
      source_(std::move(source)),
      job_(std::move(job)),
      device_(device),
      shared_([this] { return load_transformer(job_, device_); }),
      step_microseconds_(static_cast<size_t>(options_.ranks)) {}

void RankService::stop(int signal) {
  signal_ = signal;
  if (!frontend_) return;
  frontend_->status().become("stopping");
  frontend_->jobs().close({"failed", "server_shutdown", "the server was stopped while this job ran"});
}

/// A group on the CPU for what is no part of a video; with NCCL one of its own.
wanpar::Communicator RankService::office_of(const wanpar::Communicator& world) const {
  if (world.device().is_cpu()) return world.split(0);
  auto place = options_.place;
  place.master_port = std::stoi(wanpar::broadcast_text(world, 0, [] { return std::to_string(free_port()); }));
  place.store_is_there = false;
  return wanpar::connect({.backend = wanpar::Backend::gloo, .timeout = world.timeout(), .place = place});
}

void RankService::meet_neighbours(const wanpar::Communicator& world) {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  const auto mine = kernel_and_namespace();
  const auto all =
      wanpar::all_gather_text(world, fmt::format("{}\n{}\n{}\n{}", host, device_.str(), ::getpid(), mine));
  for (const auto& one : all) {
    std::istringstream lines(one);
    std::string of_host, of_device, process, place;
    std::getline(lines, of_host), std::getline(lines, of_device), std::getline(lines, process),
        std::getline(lines, place);
    who_.emplace_back(of_host, of_device);
    const auto number = static_cast<pid_t>(std::stol(process));
    neighbours_.push_back(place == mine && number != ::getpid() ? handle_of(number) : -1);
  }
}

Beat RankService::beat(int rank) const {
  const auto local = options_.place.world_size > 1 ? size_t{0} : static_cast<size_t>(rank);
  const bool is_orphan = options_.place.world_size > 1 && ::getppid() != parent_;  // the launcher is gone
  Beat beat{.signal = is_orphan ? SIGTERM : signal_.load(),
            .is_over = is_over_,
            .step_microseconds = step_microseconds_[local]};
  if (device_.is_cuda()) {
    const auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(device_.index());
    const auto& bytes = stats.reserved_bytes[0];  // of all kinds of memory together
    beat.memory_bytes = bytes.current, beat.memory_peak_bytes = bytes.peak;
  } else {
    beat.memory_bytes = memory_of_process("VmRSS:"), beat.memory_peak_bytes = memory_of_process("VmHWM:");
  }
  return beat;
}

void RankService::hear(const std::vector<Beat>& beats) {
  for (size_t rank = 0; rank < beats.size() && frontend_; ++rank) {
    const auto& beat = beats[rank];
    frontend_->status().hear(rank, {.host = who_[rank].first,
                                    .device = who_[rank].second,
                                    .memory_bytes = beat.memory_bytes,
                                    .memory_peak_bytes = beat.memory_peak_bytes,
                                    .step_seconds = static_cast<double>(beat.step_microseconds) / 1e6});
    if (beat.signal != 0 && signal_ == 0) stop(static_cast<int>(beat.signal));
  }
}

/// A rank is lost, and with it all that the others could do: they say so and end, and take what is left of it
/// with them.
void RankService::lose(const std::string& sentence) {
  // Both heartbeats may find it; the first to say so ends the process.
  while (is_losing_.exchange(true)) std::this_thread::sleep_for(std::chrono::seconds(1));
  const auto rank = options_.place.rank;
  const auto lost = ranks_named(sentence);
  const bool is_first = rank == 0 || (!lost.empty() && lost[0] == 0);
  if (is_first) fmt::print(stderr, "wan_serve: {}\n", sentence);
  if (frontend_) {
    frontend_->status().lost(lost);
    frontend_->status().become("failed", sentence);
    frontend_->jobs().abandon({"failed", "rank_failed", sentence});
    frontend_->close();
  } else {
    std::this_thread::sleep_for(
        milliseconds(700));  // a launcher that sees one end may end rank 0 before it is done
  }
  for (const auto who : lost)
    if (static_cast<size_t>(who) < neighbours_.size() && neighbours_[who] >= 0)
      ::syscall(SYS_pidfd_send_signal, neighbours_[who], SIGKILL, nullptr, 0);
  std::_Exit(1);
}

void RankService::run(const wanpar::Communicator& world) {
  const int rank = world.rank();
  const bool are_processes = options_.place.world_size > 1;
  if (rank == 0 || are_processes) meet_neighbours(are_processes ? world : wanpar::Communicator());
  if (!are_processes && rank == 0) who_.resize(static_cast<size_t>(world.size()), who_.front());
  const auto office = office_of(world);
  std::optional<Heartbeat> heart;
  std::optional<std::jthread> pulse;
  if (are_processes)
    heart.emplace(office.split(0), Heartbeat::Listener{[this, rank] { return beat(rank); },
                                                       [this](const auto& beats) { hear(beats); },
                                                       [this](const auto& sentence) { lose(sentence); }});
  else if (rank == 0)
    pulse.emplace([this, ranks = world.size()](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        std::vector<Beat> beats;
        for (int one = 0; one < ranks; ++one) beats.push_back(beat(one));
        hear(beats);
        std::this_thread::sleep_for(milliseconds(200));
      }
    });
  try {
    VideoMaker maker(world, device_, shared_, options_.are_networks_kept);
    if (rank == 0) frontend_->status().become("loading");
    maker.load(job_, options_.ranks);
    rank == 0 ? lead(maker, office) : work(maker, office, rank);
    is_over_ = true;
  } catch (const wanpar::AgreedError&) {
    is_over_ = true;  // all ranks are here
    throw;
  } catch (const std::exception& error) {
    if (!are_processes) throw;
    std::this_thread::sleep_for(kUntilHeartSays);  // where a rank is lost, that is the reason
    const auto sentence = sentence_of_failure("serving");
    fmt::print(stderr, "wan_serve (rank {}): {}\n", rank, sentence);
    if (frontend_) frontend_->jobs().abandon({"failed", "rank_failed", sentence});
    std::_Exit(1);
  }
}

Job RankService::job_of(const Flags& flags, int64_t ranks) const {
  return plan(*source_, parse_options(words_of(flags)), static_cast<int>(ranks));
}

Outcome RankService::make(VideoMaker& maker, const wanpar::Communicator& office, const Told& told,
                          const VideoMaker::Watch& watch) const {
  try {
    std::optional<Job> job;
    wanpar::all_or_none(office.with_timeout(kForWork), [&] { job = job_of(told.flags, told.ranks); });
    maker.make(*job, told.ranks, *job->options.base_seed, watch);
    return {"completed"};
  } catch (...) {
    const auto sentence = sentence_of_failure("running");
    if (watch.stop->was_followed() || sentence == Stopped().what()) return {"cancelled"};
    return {"failed", "generation_failed", sentence};
  }
}

namespace {

/// Collective. Where a rank has failed, none keeps its place.
void part_where_one_failed(const wanpar::Communicator& office, VideoMaker& maker, const Outcome& outcome) {
  if (wanpar::on_any_rank(office.with_timeout(kForWork), outcome.status == "failed")) maker.part();
}

/// Tells how long each step took.
std::function<void(const Step&)> timed(std::atomic<int64_t>& microseconds) {
  return [&microseconds, last = std::optional<std::chrono::steady_clock::time_point>()](const Step&) mutable {
    const auto now = std::chrono::steady_clock::now();
    if (last) microseconds = std::chrono::duration_cast<std::chrono::microseconds>(now - *last).count();
    last = now;
  };
}

}  // namespace

void RankService::work(VideoMaker& maker, const wanpar::Communicator& office, int rank) {
  auto next = Told::of(told(office, {}));
  for (; !next.is_over; next = Told::of(told(office, {}))) {
    Stop stop;
    auto& mine = step_microseconds_[options_.place.world_size > 1 ? 0 : static_cast<size_t>(rank)];
    const auto outcome = make(maker, office, next, {.stepped = timed(mine), .stop = &stop});
    part_where_one_failed(office, maker, outcome);
  }
  ended_by_ = next.signal;
}

void RankService::lead(VideoMaker& maker, const wanpar::Communicator& office) {
  auto& jobs = frontend_->jobs();
  const Preview preview(maker.vae().is_empty() ? load_vae(job_, device_) : maker.vae());
  frontend_->planner().loaded();
  frontend_->status().become("ready");
  fmt::print(stderr, "wan_serve: ready\n");
  while (const auto ticket = jobs.next()) {
    const auto& record = ticket->record;
    const Told now{.flags = record.flags, .ranks = record.ranks, .with_tensors = record.has_tensors};
    told(office, now.text());
    ToldProgress progress(jobs);
    const auto time = timed(step_microseconds_[0]);
    ShownLatents shown(preview, jobs);
    const auto stepped = [&](const Step& step) { time(step), shown(step); };
    const auto finished = [&](const Result& result) {
      progress.start("write", 1);
      const auto folder = jobs.folder_of(record.id);
      const auto job = job_of(record.flags, record.ranks);
      write(job, outputs_in(folder, record.has_tensors), record.prompt(), *job.options.base_seed, result);
      write_thumbnail(folder / "thumbnail.png", result.frames);
    };
    const auto outcome =
        make(maker, office, now,
             {.progress = &progress, .stepped = stepped, .stop = ticket->stop.get(), .finished = finished});
    part_where_one_failed(office, maker, outcome);
    if (outcome.status == "failed")
      fmt::print(stderr, "wan_serve: {} failed: {}\n", record.id, outcome.error);
    jobs.finish(outcome);
  }
  ended_by_ = signal_.load();
  told(office, Told{.is_over = true, .signal = signal_}.text());
}

}  // namespace wan::serve
