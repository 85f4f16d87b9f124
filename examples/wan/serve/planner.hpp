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

/// Decides of requests whether and how the ranks at hand can make the video, before they wait in the queue.
class Planner {
 public:
  Planner(Flags defaults, std::string model) : defaults_(std::move(defaults)), model_(std::move(model)) {}

  /// The checkpoint is open; until then every request is refused as too early.
  void open(std::shared_ptr<const Source> source, int64_t ranks, HostShare share);
  /// Weights are loaded: what is left of memory now is what jobs may take.
  void loaded();

  struct Planned {
    Record record;  ///< without an id
    Job job;
    HostShare share;
    Room room;
  };
  /// Throws Refusal: for a field that is wrong, or, with the code `not_possible`, where ranks, memory or the
  /// model do not allow it.
  Planned plan(const nlohmann::json& body) const;
  /// What would be: the same as an answer of its own, also where it is not possible.
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

/// The options that the flags stand for. Throws Refusal, in the words of fields.
Options options_of(const Flags& flags);

}  // namespace wan::serve
