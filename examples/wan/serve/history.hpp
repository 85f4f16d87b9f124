#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "wan/serve/record.hpp"

namespace wan::serve {

/// A row of the history.
nlohmann::json history_row(const Record& record);

/// The rows as CSV. A cell that a spreadsheet would interpret as a formula is prefixed by an apostrophe.
std::string history_csv(const std::vector<Record>& records);

}  // namespace wan::serve
