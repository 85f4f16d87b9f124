#include "wan/serve/jobs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <system_error>
#include <wanpar/core/error.hpp>

#include "wan/serve/base64.hpp"
#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

namespace fs = std::filesystem;

nlohmann::json or_null(int64_t time) { return time == 0 ? nlohmann::json() : nlohmann::json(time); }

nlohmann::json rounded(const std::optional<double>& seconds) {
  return seconds ? nlohmann::json(std::round(*seconds * 1000) / 1000) : nlohmann::json();
}

/// As the OpenAI API has it: a text, of whole seconds where they are.
std::string seconds_of_video(const nlohmann::json& settings) {
  const auto frames = settings.at("num_frames").get<double>(), fps = settings.at("fps").get<double>();
  return fmt::format("{}", std::max(1.0, std::round((frames - 1) / fps)));
}

[[noreturn]] void refuse_unknown(const std::string& id) {
  throw Refusal(http::status::not_found, "not_found", fmt::format("there is no video '{}'", id));
}

int64_t bytes_in(const fs::path& folder) {
  std::error_code no;
  int64_t bytes = 0;
  for (const auto& file : fs::directory_iterator(folder, no))
    bytes += static_cast<int64_t>(file.file_size(no));
  return bytes;
}

constexpr const char* kShutdown = "server_shutdown";

}  // namespace

int64_t now() { return static_cast<int64_t>(std::time(nullptr)); }

Jobs::Jobs(JobsOptions options, std::function<void(const Event&)> tell)
    : options_(std::move(options)), tell_(std::move(tell)), records_(options_.folder / "jobs.sqlite") {
  fs::create_directories(options_.folder / "videos");
  counts_.capacity = options_.capacity;
  counts_.quota_bytes = options_.quota_bytes;
  for (auto& record :
       records_.list({.statuses = {"in_progress"}, .with_deleted = true, .limit = INT64_MAX})) {
    end(record, {"failed", kShutdown, "the server ended while this job ran"});
    records_.update(record);
  }
  for (auto& record : records_.list({.statuses = {"queued"}, .is_newest_first = false, .limit = INT64_MAX}))
    waiting_.push_back(record);
  // What no finished job has is the rest of one that was broken off.
  for (const auto& folder : fs::directory_iterator(options_.folder / "videos")) {
    const auto found = records_.find(folder.path().filename().string());
    std::error_code no;
    if (!found || found->status != "completed" || found->expired_at != 0) fs::remove_all(folder.path(), no);
  }
  keep_quota();
}

bool Jobs::is_visible(const Record& record, const std::string& owner) const {
  return record.deleted_at == 0 && record.owner == owner;
}

/// Seconds that the running job still takes.
std::optional<double> Jobs::seconds_left() const {
  const auto& stage = running_->stage;
  const auto all = pace_.seconds_of(running_->record.settings);
  const auto gone = std::chrono::duration<double>(Clock::now() - running_->began).count();
  if (stage.phase == "denoise" && stage.step > 0)
    return stage.seconds_per_step * static_cast<double>(stage.steps - stage.step) +
           pace_.other_seconds_of(running_->record.settings).value_or(0);
  return all ? std::optional(std::max(0.0, *all - gone)) : std::nullopt;
}

nlohmann::json Jobs::view(const Record& record) const {
  nlohmann::json variants = nlohmann::json::array();
  if (record.status == "completed" && record.expired_at == 0) {
    variants = {"video", "thumbnail", "spritesheet"};
    if (record.has_tensors) variants.push_back("tensors");
  }
  nlohmann::json view = {{"id", record.id},
                         {"object", "video"},
                         {"model", options_.model},
                         {"status", record.status},
                         {"progress", record.status == "completed" ? 100 : 0},
                         {"created_at", record.created_at},
                         {"started_at", or_null(record.started_at)},
                         {"completed_at", or_null(record.completed_at)},
                         {"expires_at", or_null(record.expired_at)},
                         {"size", record.settings.at("size")},
                         {"seconds", seconds_of_video(record.settings)},
                         {"prompt", record.prompt()},
                         {"error", nullptr},
                         {"remixed_from_video_id", nullptr},
                         {"queue_position", nullptr},
                         {"eta_s", nullptr},
                         {"phase", nullptr},
                         {"step", nullptr},
                         {"steps", nullptr},
                         {"seconds_per_step", nullptr},
                         {"run_seconds", rounded(record.run_seconds)},
                         {"seed", record.settings.at("seed")},
                         {"bytes", record.bytes == 0 ? nlohmann::json() : nlohmann::json(record.bytes)},
                         {"variants", variants},
                         {"settings", record.settings}};
  if (!record.error.empty()) view["error"] = {{"code", record.error_code}, {"message", record.error}};
  if (running_ && running_->record.id == record.id) {
    const auto& stage = running_->stage;
    view["queue_position"] = 0;
    view["eta_s"] = rounded(seconds_left());
    if (!stage.phase.empty()) {
      view["phase"] = stage.phase;
      view["step"] = stage.step, view["steps"] = stage.steps;
      if (stage.seconds_per_step > 0) view["seconds_per_step"] = rounded(stage.seconds_per_step);
      // The steps are nearly all of the time; text comes before them, decoding behind them.
      const auto part =
          stage.steps > 0 ? static_cast<double>(stage.step) / static_cast<double>(stage.steps) : 0;
      view["progress"] = stage.phase == "denoise"                            ? 1 + static_cast<int>(part * 89)
                         : stage.phase == "decode" || stage.phase == "write" ? 90 + static_cast<int>(part * 9)
                                                                             : 0;
    }
  } else if (record.status == "queued") {
    auto seconds = running_ ? seconds_left() : std::optional(0.0);
    for (size_t place = 0; place < waiting_.size(); ++place) {
      const auto more = pace_.seconds_of(waiting_[place].settings);
      seconds = seconds && more ? std::optional(*seconds + *more) : std::nullopt;
      if (waiting_[place].id != record.id) continue;
      view["queue_position"] = place + 1;
      view["eta_s"] = rounded(seconds);
      break;
    }
  }
  return view;
}

void Jobs::tell(const Record& record) {
  if (record.deleted_at != 0) return;
  tell_({"job", record.id, record.owner, view(record).dump(), record.is_over()});
}

/// Those that wait have another place.
void Jobs::tell_order() {
  for (const auto& record : waiting_) tell(record);
}

nlohmann::json Jobs::submit(Record record) {
  std::lock_guard lock(mutex_);
  if (closed_)
    throw Refusal(http::status::service_unavailable, "stopping", "the server is stopping", "",
                  {{"Retry-After", "10"}});
  if (waiting_.size() >= options_.capacity) {
    ++counts_.refused;
    const auto seconds = running_ ? seconds_left().value_or(5) : 1;
    throw Refusal(
        http::status::too_many_requests, "queue_full",
        fmt::format("{} jobs wait already, and the queue takes no more; try again later", waiting_.size()),
        "", {{"Retry-After", std::to_string(std::clamp<int64_t>(std::llround(seconds), 1, 3600))}});
  }
  record.id = new_id();
  record.created_at = now();
  records_.add(record);
  ++counts_.accepted;
  waiting_.push_back(record);
  tell(record);
  changed_.notify_all();
  return view(record);
}

Record Jobs::record(const std::string& id, const std::string& owner) const {
  if (!is_id(id)) refuse_unknown(id);
  std::lock_guard lock(mutex_);
  if (running_ && running_->record.id == id && !running_->is_deleted && is_visible(running_->record, owner))
    return running_->record;
  const auto found = records_.find(id);
  if (!found || !is_visible(*found, owner)) refuse_unknown(id);
  return *found;
}

nlohmann::json Jobs::view(const std::string& id, const std::string& owner) const {
  const auto found = record(id, owner);
  std::lock_guard lock(mutex_);
  return view(found);
}

std::vector<nlohmann::json> Jobs::list(const Records::Wish& wish) const {
  const auto found = records_.list(wish);
  std::lock_guard lock(mutex_);
  std::vector<nlohmann::json> views;
  for (const auto& record : found) views.push_back(view(record));
  return views;
}

std::vector<nlohmann::json> Jobs::live(const std::string& owner) const {
  std::lock_guard lock(mutex_);
  std::vector<nlohmann::json> views;
  if (running_ && is_visible(running_->record, owner)) views.push_back(view(running_->record));
  for (const auto& record : waiting_)
    if (is_visible(record, owner)) views.push_back(view(record));
  return views;
}

std::string Jobs::preview(const std::string& id, const std::string& owner) const {
  record(id, owner);
  std::lock_guard lock(mutex_);
  return running_ && running_->record.id == id ? running_->preview : std::string();
}

nlohmann::json Jobs::cancel(const std::string& id, const std::string& owner) {
  const auto found = record(id, owner);
  std::lock_guard lock(mutex_);
  if (running_ && running_->record.id == id) {
    running_->stop->ask();
    return view(running_->record);
  }
  const auto place =
      std::find_if(waiting_.begin(), waiting_.end(), [&](const Record& one) { return one.id == id; });
  if (place == waiting_.end())
    throw Refusal(http::status::conflict, "already_finished",
                  fmt::format("the video '{}' is {}", id, found.status));
  auto record = *place;
  waiting_.erase(place);
  end(record, {"cancelled"});
  records_.update(record);
  tell(record);
  tell_order();
  return view(record);
}

/// What a user has deleted: the record stays, to be counted, without what was asked for.
void Jobs::forget(Record& record) {
  record.deleted_at = now();
  record.settings["prompt"] = "";
  record.settings["negative_prompt"] = "";
  record.flags.erase("prompt");
  record.flags.erase("negative_prompt");
  record.bytes = 0;
}

void Jobs::remove(const std::string& id, const std::string& owner) {
  auto found = record(id, owner);
  std::lock_guard lock(mutex_);
  const Event event{"deleted", id, owner, nlohmann::json{{"id", id}}.dump(), true};
  if (running_ && running_->record.id == id) {
    running_->stop->ask();
    running_->is_deleted = true;
    auto hidden = running_->record;
    forget(hidden);
    records_.update(hidden);
    tell_(event);
    return;
  }
  const auto waits = std::erase_if(waiting_, [&](const Record& one) { return one.id == id; }) > 0;
  if (waits) end(found, {"cancelled"});
  forget(found);
  records_.update(found);
  std::error_code no;
  fs::remove_all(folder_of(id), no);
  tell_(event);
  if (waits) tell_order();
  keep_quota();
}

std::optional<Ticket> Jobs::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
  if (closed_) return std::nullopt;
  Running running;
  running.record = waiting_.front();
  waiting_.pop_front();
  running.record.status = "in_progress";
  running.record.started_at = now();
  running.stop = std::make_shared<Stop>();
  running.began = running.stage_began = Clock::now();
  records_.update(running.record);
  fs::create_directories(folder_of(running.record.id));
  running_ = std::move(running);
  counts_.queue_seconds += static_cast<double>(running_->record.started_at - running_->record.created_at);
  tell(running_->record);
  tell_order();
  return Ticket{running_->record, running_->stop};
}

void Jobs::at(const Stage& stage) {
  std::lock_guard lock(mutex_);
  if (!running_) return;
  const auto time = Clock::now();
  const bool is_new = running_->stage.phase != stage.phase;
  if (is_new) running_->stage_began = time;
  running_->stage = stage;
  if (!is_new && stage.step > 0) {
    const auto gone = std::chrono::duration<double>(time - running_->stage_began).count();
    running_->stage.seconds_per_step = gone / static_cast<double>(stage.step);
    if (stage.phase == "denoise")
      running_->denoise_seconds = gone, running_->step_seconds = running_->stage.seconds_per_step;
  }
  if (!running_->is_deleted) tell(running_->record);
}

void Jobs::show(const std::string& png) {
  std::lock_guard lock(mutex_);
  if (!running_) return;
  running_->preview = png;
  if (running_->is_deleted) return;
  const nlohmann::json event = {{"id", running_->record.id},
                                {"step", running_->stage.step},
                                {"image", "data:image/png;base64," + base64(png)}};
  tell_({"preview", running_->record.id, running_->record.owner, event.dump()});
}

void Jobs::end(Record& record, const Outcome& outcome) {
  record.status = outcome.status;
  record.error_code = outcome.error_code;
  record.error = outcome.error;
  record.completed_at = now();
  ++counts_.ended[outcome.status];
}

void Jobs::finish(const Outcome& outcome) {
  std::lock_guard lock(mutex_);
  if (!running_) return;  // it was abandoned
  auto done = std::move(*running_);
  running_.reset();
  auto& record = done.record;
  record.run_seconds = std::chrono::duration<double>(Clock::now() - done.began).count();
  counts_.run_seconds += record.run_seconds;
  const bool was_stopped = outcome.status == "cancelled" && closed_.has_value();
  end(record, was_stopped ? *closed_ : outcome);
  if (record.status == "completed" && !done.is_deleted) {
    record.bytes = bytes_in(folder_of(record.id));
    if (done.step_seconds > 0)
      pace_.learn(record.settings, done.step_seconds, record.run_seconds - done.denoise_seconds);
  } else {
    std::error_code no;
    fs::remove_all(folder_of(record.id), no);
  }
  if (done.is_deleted) forget(record);
  records_.update(record);
  tell(record);
  if (record.bytes > 0) keep_quota();
}

/// Takes the files of the oldest away until the others fit; the newest stay in any case.
void Jobs::keep_quota() {
  auto all = records_.with_files();
  int64_t bytes = 0;
  for (const auto& record : all) bytes += record.bytes;
  size_t removed = 0;
  for (; removed + 1 < all.size() && bytes > options_.quota_bytes; ++removed) {
    auto& record = all[removed];
    std::error_code no;
    fs::remove_all(folder_of(record.id), no);
    bytes -= record.bytes;
    record.expired_at = now();
    records_.update(record);
    tell(record);
  }
  counts_.used_bytes = bytes;
  counts_.videos = all.size() - removed;
}

void Jobs::close(const Outcome& outcome) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = outcome;
  if (running_) running_->stop->ask();
  changed_.notify_all();
}

void Jobs::abandon(const Outcome& outcome) {
  std::lock_guard lock(mutex_);
  closed_ = outcome;
  changed_.notify_all();
  std::deque<Record> all;
  all.swap(waiting_);
  if (running_) {
    all.push_front(running_->record);
    if (running_->is_deleted) forget(all.front());
    std::error_code no;
    fs::remove_all(folder_of(running_->record.id), no);
    running_.reset();
  }
  for (auto& record : all) {
    end(record, outcome);
    records_.update(record);
    tell(record);
  }
}

Jobs::Counts Jobs::counts() const {
  std::lock_guard lock(mutex_);
  auto counts = counts_;
  counts.waiting = waiting_.size();
  if (running_) counts.running = running_->record.id;
  return counts;
}

std::optional<double> Jobs::seconds_of(const nlohmann::json& settings) const {
  std::lock_guard lock(mutex_);
  return pace_.seconds_of(settings);
}

}  // namespace wan::serve
