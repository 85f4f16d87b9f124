#pragma once
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "wan/serve/database.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// The records of all jobs, in a SQLite database. Thread-safe.
class Records {
 public:
  explicit Records(const std::filesystem::path& file);

  void add(const Record& record);
  void update(const Record& record);
  /// Without deleted records.
  std::optional<Record> find(const std::string& id) const;

  /// A filter of records.
  struct Wish {
    std::optional<std::string> owner = {};   ///< absent: any
    std::vector<std::string> statuses = {};  ///< empty: any
    int64_t from = 0, to = INT64_MAX;        ///< of the time of creation
    std::string words = {};                  ///< contained in the prompt, case-insensitive
    std::string after = {};                  ///< an id: only records after it in the order
    bool is_newest_first = true;
    bool with_deleted = false;
    int64_t limit = 20;
  };
  std::vector<Record> list(const Wish& wish) const;

  /// The numbers of records by status, of an owner or of all, and the seconds that they ran.
  struct Totals {
    std::map<std::string, int64_t> of_status;
    double run_seconds = 0;
  };
  Totals totals(const std::optional<std::string>& owner) const;

  /// Records with files, the oldest first.
  std::vector<Record> with_files() const;

 private:
  mutable std::mutex mutex_;
  mutable Database database_;
};

}  // namespace wan::serve
