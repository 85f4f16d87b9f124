#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "wan/generate/job.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// A field of a request, and the flag of wan_t2v that it sets.
struct Field {
  enum class Kind { text, count, amount, truth, toggle };  ///< a toggle is a flag without a value
  const char* name;
  const char* flag;
  Kind kind;
};

/// All fields.
const std::vector<Field>& fields();

/// The settings of a job: the server's defaults, overridden by the request. `body` is a JSON object, or one
/// made of a form's texts. Throws Refusal with the name of the field, for an unknown one or one with a value
/// of another kind.
struct Wanted {
  Flags flags;
  std::optional<int64_t> ranks = {};
  std::optional<std::string> model = {};
  bool save_tensors = false;
};
Wanted read_fields(const Flags& defaults, const nlohmann::json& body);

/// The flags as a command line.
std::vector<std::string> words_of(const Flags& flags);

/// A message about flags, rewritten in terms of fields.
std::string in_fields(const std::string& sentence);

/// The fields that reproduce the video of a planned job, and values that follow from them.
nlohmann::json settings_of(const Job& job, int64_t ranks, uint64_t seed, bool save_tensors);

/// The flags of wan_t2v as the body of a request. Throws UsageError for a flag that a server does not accept.
nlohmann::json body_of(const Flags& flags);

}  // namespace wan::serve
