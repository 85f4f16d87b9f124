#pragma once
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "wan/generate/job.hpp"
#include "wan/generate/needs.hpp"
#include "wan/serve/fields.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// Decides whether and how the available ranks can make the video of a request, before it is queued.
class Planner {
 public:
  Planner(Flags defaults, std::string model) : defaults_(std::move(defaults)), model_(std::move(model)) {}

  /// Call when the checkpoint is open; until then every request is rejected as too early.
  void open(std::shared_ptr<const Source> source, int64_t ranks, HostShare share);
  /// Call when the weights are loaded: jobs may use the memory that is available now.
  void loaded();

  struct Planned {
    Record record;  ///< without an id
    Job job;
    HostShare share;
    Room room;
  };
  /// Throws Refusal for an invalid field, or, with the code `not_possible`, if ranks, memory or the model do
  /// not allow the job.
  Planned plan(const nlohmann::json& body) const;
  /// The plan, or the reason why it is impossible, as a response.
  nlohmann::json view(nlohmann::json body) const;

  const Flags& defaults() const { return defaults_; }
  int64_t ranks() const;

 private:
  const Flags defaults_;
  const std::string model_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Source> source_;
  int64_t ranks_ = 1;
  HostShare share_;
  std::optional<Room> room_;
};

/// Parses the flags. Throws Refusal, in terms of fields.
Options options_of(const Flags& flags);

}  // namespace wan::serve
