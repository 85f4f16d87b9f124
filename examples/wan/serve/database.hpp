#pragma once
#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace wan::serve {

/// A SQLite database. Throws Error, with the file's name.
class Database {
 public:
  explicit Database(const std::filesystem::path& file);

  /// Runs statements without results.
  void run(const std::string& statements);

  /// A prepared statement: bind its values in order, then step through the rows.
  class Query {
   public:
    Query& bind(int64_t value);
    Query& bind(double value);
    Query& bind(const std::string& value);
    /// Steps to the next row; false at the end.
    bool next();
    int64_t number(int column) const { return sqlite3_column_int64(statement_.get(), column); }
    double amount(int column) const { return sqlite3_column_double(statement_.get(), column); }
    std::string text(int column) const;

   private:
    friend class Database;
    Query(const Database& database, const std::string& statement);

    const Database& database_;
    std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> statement_;
    int place_ = 0;
  };
  Query query(const std::string& statement) const { return Query(*this, statement); }

 private:
  [[noreturn]] void fail() const;

  std::filesystem::path file_;
  std::unique_ptr<sqlite3, int (*)(sqlite3*)> connection_;
};

}  // namespace wan::serve
