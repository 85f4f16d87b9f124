#include "wan/serve/planner.hpp"

#include <fmt/format.h>

#include <random>
#include <regex>

#include "wan/generate/room.hpp"
#include "wan/io/video.hpp"
#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

/// The first word of a sentence about a field is its name.
std::string field_at(const std::string& sentence) {
  const auto name = sentence.substr(0, sentence.find(' '));
  if (name == "ranks") return name;
  for (const auto& field : fields())
    if (name == field.name) return name;
  return {};
}

/// The ranks that work on it: those asked for, or those that the degrees say where they say all.
int64_t ranks_of(const Wanted& wanted, const RequestedDegrees& degrees, int64_t all) {
  if (wanted.ranks) return *wanted.ranks;
  if (!degrees.cfg || !degrees.ulysses || !(degrees.ring || degrees.patch)) return all;
  return *degrees.cfg * *degrees.ulysses * degrees.ring.value_or(1) * degrees.pipeline.value_or(1) *
         degrees.patch.value_or(1);
}

size_t bytes_of(const Weights& weights) {
  size_t bytes = 0;
  for (const auto& [name, entry] : weights) bytes += entry.tensor.nbytes();
  return bytes;
}

}  // namespace

Options options_of(const Flags& flags) {
  try {
    return parse_options(words_of(flags));
  } catch (const UsageError& error) {
    const auto sentence = in_fields(error.what());
    throw Refusal(http::status::bad_request, "invalid_value", sentence, field_at(sentence));
  }
}

void Planner::open(std::shared_ptr<const Source> source, int64_t ranks, HostShare share) {
  std::lock_guard lock(mutex_);
  source_ = std::move(source);
  ranks_ = ranks;
  share_ = share;
}

void Planner::loaded() {
  std::lock_guard lock(mutex_);
  share_.weights_are_there = true;
  room_ = wan::room();
}

int64_t Planner::ranks() const {
  std::lock_guard lock(mutex_);
  return ranks_;
}

Planner::Planned Planner::plan(const nlohmann::json& body) const {
  std::shared_ptr<const Source> source;
  HostShare share;
  std::optional<Room> room;
  int64_t all = 1;
  {
    std::lock_guard lock(mutex_);
    source = source_, share = share_, room = room_, all = ranks_;
  }
  if (!source)
    throw Refusal(http::status::service_unavailable, "loading",
                  "the checkpoint is being opened; try again soon", "", {{"Retry-After", "1"}});
  auto wanted = read_fields(defaults_, body);
  if (wanted.model && *wanted.model != model_)
    throw Refusal(
        http::status::not_found, "model_not_found",
        fmt::format("there is no model '{}' here; it is '{}'", wanted.model->substr(0, 100), model_),
        "model");
  if (!body.contains("prompt") && !(body.contains("extra_params") && body["extra_params"].contains("prompt")))
    throw Refusal(http::status::bad_request, "missing_field", "prompt is missing; say what the video shows",
                  "prompt");
  auto options = options_of(wanted.flags);
  const auto ranks = ranks_of(wanted, options.degrees, all);
  const auto impossible = [](const std::string& sentence) {
    const auto said = in_fields(sentence);
    return Refusal(http::status::bad_request, "not_possible", said, field_at(said));
  };
  if (ranks > all) throw impossible(fmt::format("ranks is {}, and the server has {}", ranks, all));
  if (!options.base_seed) options.base_seed = std::random_device()() & 0x7fffffff;
  wanted.flags["base_seed"] = std::to_string(*options.base_seed);
  const auto seed = *options.base_seed;
  // Of the ranks of this host, those that work on it; who is elsewhere looks at its own memory.
  share.processes = static_cast<int>(std::min<int64_t>(share.processes, ranks));
  share.threads = static_cast<int>(std::min<int64_t>(share.threads, ranks));
  const auto left = room.value_or(wan::room());
  try {
    auto job = wan::plan(*source, std::move(options), static_cast<int>(ranks));
    check_memory(job, share, left);
    Record record{.flags = wanted.flags,
                  .ranks = ranks,
                  .settings = settings_of(job, ranks, seed, wanted.save_tensors),
                  .has_tensors = wanted.save_tensors};
    return {std::move(record), std::move(job), share, left};
  } catch (const UsageError& error) {
    throw impossible(error.what());
  } catch (const wanpar::Error& error) {
    throw impossible(error.what());
  }
}

nlohmann::json Planner::view(nlohmann::json body) const {
  if (body.is_object() && !body.contains("prompt")) body["prompt"] = "-";
  try {
    const auto planned = plan(body);
    const auto& job = planned.job;
    auto memory = nlohmann::json::array();
    for (const auto& need : needs_of(job, planned.share))
      memory.push_back(
          {{"phase", need.phase}, {"needed_bytes", need.bytes}, {"available_bytes", planned.room.bytes}});
    const auto& checkpoint = job.checkpoint;
    return {{"object", "plan"},
            {"possible", true},
            {"reason", nullptr},
            {"ranks", planned.record.ranks},
            {"degrees",
             {{"cfg_size", job.degrees.cfg},
              {"ulysses_size", job.degrees.ulysses},
              {"ring_size", job.degrees.ring},
              {"pipeline_size", job.degrees.pipeline},
              {"patch_parallel_size", job.degrees.patch}}},
            {"describe", describe(job.degrees)},
            {"settings", planned.record.settings},
            {"memory", memory},
            {"weights_bytes",
             {{"transformer", bytes_of(checkpoint.transformer())},
              {"text_encoder", bytes_of(checkpoint.text_encoder())},
              {"vae", bytes_of(checkpoint.vae())}}},
            {"video_bytes", expected_video_bytes(job.size.frames, job.size.height, job.size.width)},
            {"notes", job.notes}};
  } catch (const Refusal& refusal) {
    if (refusal.code != "not_possible") throw;
    return {{"object", "plan"},
            {"possible", false},
            {"reason", refusal.what()},
            {"param", refusal.param.empty() ? nlohmann::json() : nlohmann::json(refusal.param)}};
  }
}

}  // namespace wan::serve
