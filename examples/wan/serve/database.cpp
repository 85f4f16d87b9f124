#include "wan/serve/database.hpp"

#include <fmt/format.h>

#include <wanpar/core/error.hpp>

namespace wan::serve {

Database::Database(const std::filesystem::path& file) : file_(file), connection_(nullptr, sqlite3_close) {
  sqlite3* opened = nullptr;
  const int status = sqlite3_open_v2(
      file.c_str(), &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  connection_.reset(opened);
  if (status != SQLITE_OK) fail();
  sqlite3_busy_timeout(opened, 2000);
}

void Database::run(const std::string& statements) {
  if (sqlite3_exec(connection_.get(), statements.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) fail();
}

void Database::fail() const {
  throw wanpar::Error(fmt::format("{}: {}", file_.string(), sqlite3_errmsg(connection_.get())));
}

Database::Query::Query(const Database& database, const std::string& statement)
    : database_(database), statement_(nullptr, sqlite3_finalize) {
  sqlite3_stmt* made = nullptr;
  if (sqlite3_prepare_v2(database.connection_.get(), statement.c_str(), -1, &made, nullptr) != SQLITE_OK)
    database.fail();
  statement_.reset(made);
}

Database::Query& Database::Query::bind(int64_t value) {
  if (sqlite3_bind_int64(statement_.get(), ++place_, value) != SQLITE_OK) database_.fail();
  return *this;
}

Database::Query& Database::Query::bind(double value) {
  if (sqlite3_bind_double(statement_.get(), ++place_, value) != SQLITE_OK) database_.fail();
  return *this;
}

Database::Query& Database::Query::bind(const std::string& value) {
  if (sqlite3_bind_text(statement_.get(), ++place_, value.data(), static_cast<int>(value.size()),
                        SQLITE_TRANSIENT) != SQLITE_OK)
    database_.fail();
  return *this;
}

bool Database::Query::next() {
  const int status = sqlite3_step(statement_.get());
  if (status != SQLITE_ROW && status != SQLITE_DONE) database_.fail();
  return status == SQLITE_ROW;
}

std::string Database::Query::text(int column) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return text ? std::string(text, static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column)))
              : std::string();
}

}  // namespace wan::serve
