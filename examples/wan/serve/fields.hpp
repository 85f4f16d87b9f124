#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "wan/generate/job.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// A field of a request that is a flag of wan_t2v under another name, or the same.
struct Field {
  enum class Kind { text, count, amount, truth, toggle };  ///< a toggle is a flag without a value
  const char* name;
  const char* flag;
  Kind kind;
};

/// All of them.
const std::vector<Field>& fields();

/// What a job is told: the server's own flags, with what the request says in their place. `body` is a JSON
/// object, or a form's texts as one. Throws Refusal that names the field, for one that is not known or has
/// another kind of value.
struct Wanted {
  Flags flags;
  std::optional<int64_t> ranks = {};
  std::optional<std::string> model = {};
  bool save_tensors = false;
};
Wanted read_fields(const Flags& defaults, const nlohmann::json& body);

/// The command line that the flags stand for.
std::vector<std::string> words_of(const Flags& flags);

/// A sentence about flags, as one about fields.
std::string in_fields(const std::string& sentence);

/// The fields that make the video of a planned job again, and what of it follows from them.
nlohmann::json settings_of(const Job& job, int64_t ranks, uint64_t seed, bool save_tensors);

/// What the flags of wan_t2v ask a server for, as the body of a request. Throws UsageError for one that a
/// server does not take.
nlohmann::json body_of(const Flags& flags);

}  // namespace wan::serve
