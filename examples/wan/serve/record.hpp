#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace wan::serve {

/// The settings of a job, as flags of wan_t2v and their values; a switch has none.
using Flags = std::map<std::string, std::string>;

/// The persistent record of a job.
struct Record {
  std::string id = {};
  std::string owner = {};         ///< owner of the key that it was submitted with; empty without keys
  std::string status = "queued";  ///< queued, in_progress, completed, failed, cancelled
  Flags flags = {};
  int64_t ranks = 1;
  nlohmann::json settings = {};  ///< the fields that reproduce the video
  int64_t created_at = 0, started_at = 0, completed_at = 0, expired_at = 0, deleted_at = 0;  ///< 0: never
  double run_seconds = 0;
  std::string error_code = {}, error = {};
  int64_t bytes = 0;  ///< of its files
  bool has_tensors = false;

  bool is_over() const { return status != "queued" && status != "in_progress"; }
  std::string prompt() const { return settings.value("prompt", ""); }
};

/// A new id, of 128 random bits.
std::string new_id();

/// Whether a text is an id: nothing else may name a folder.
bool is_id(const std::string& text);

}  // namespace wan::serve
