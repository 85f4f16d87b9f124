#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "wan/serve/record.hpp"

namespace wan::serve {

/// A line of the history.
nlohmann::json history_row(const Record& record);

/// The same lines as a table of text. A cell that a spreadsheet would take for a formula has an apostrophe
/// before it.
std::string history_csv(const std::vector<Record>& records);

}  // namespace wan::serve
