#include "wan/serve/records.hpp"

#include <fmt/ranges.h>

namespace wan::serve {
namespace {

constexpr const char* kRecordColumns =
    "id, owner, status, flags, ranks, settings, created_at, started_at, completed_at, expired_at, "
    "deleted_at, "
    "run_seconds, error_code, error, bytes, has_tensors";

Record record_in(const Database::Query& row) {
  Record record;
  record.id = row.text(0);
  record.owner = row.text(1);
  record.status = row.text(2);
  record.flags = nlohmann::json::parse(row.text(3)).get<Flags>();
  record.ranks = row.number(4);
  record.settings = nlohmann::json::parse(row.text(5));
  record.created_at = row.number(6);
  record.started_at = row.number(7);
  record.completed_at = row.number(8);
  record.expired_at = row.number(9);
  record.deleted_at = row.number(10);
  record.run_seconds = row.amount(11);
  record.error_code = row.text(12);
  record.error = row.text(13);
  record.bytes = row.number(14);
  record.has_tensors = row.number(15) != 0;
  return record;
}

/// All columns but the id, in their order.
void bind_values(Database::Query& query, const Record& record) {
  query.bind(record.owner)
      .bind(record.status)
      .bind(nlohmann::json(record.flags).dump())
      .bind(record.ranks)
      .bind(record.settings.dump())
      .bind(record.created_at)
      .bind(record.started_at)
      .bind(record.completed_at)
      .bind(record.expired_at)
      .bind(record.deleted_at)
      .bind(record.run_seconds)
      .bind(record.error_code)
      .bind(record.error)
      .bind(record.bytes)
      .bind(int64_t{record.has_tensors})
      .bind(record.prompt());
}

/// For LIKE, in which % and _ stand for others.
std::string pattern_of(const std::string& words) {
  std::string pattern = "%";
  for (const char c : words) {
    if (c == '%' || c == '_' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern + "%";
}

}  // namespace

Records::Records(const std::filesystem::path& file) : database_(file) {
  // A write is safe when the process ends, however it does; a machine that loses its power may lose the last
  // ones.
  database_.run(
      "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
      "CREATE TABLE IF NOT EXISTS jobs ("
      "  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, status TEXT "
      "NOT NULL,"
      "  flags TEXT NOT NULL, ranks INTEGER NOT NULL, settings TEXT NOT NULL, created_at INTEGER NOT NULL,"
      "  started_at INTEGER NOT NULL, completed_at INTEGER NOT NULL, expired_at INTEGER NOT NULL,"
      "  deleted_at INTEGER NOT NULL, run_seconds REAL NOT NULL, error_code TEXT NOT NULL, error TEXT NOT "
      "NULL,"
      "  bytes INTEGER NOT NULL, has_tensors INTEGER NOT NULL, prompt TEXT NOT NULL);"
      "CREATE INDEX IF NOT EXISTS jobs_of_owner ON jobs (owner, number);"
      "CREATE INDEX IF NOT EXISTS jobs_of_status ON jobs (status, number);");
}

void Records::add(const Record& record) {
  std::lock_guard lock(mutex_);
  auto query = database_.query(
      fmt::format("INSERT INTO jobs ({}, prompt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  kRecordColumns));
  query.bind(record.id);
  bind_values(query, record);
  query.next();
}

void Records::update(const Record& record) {
  std::lock_guard lock(mutex_);
  auto query = database_.query(
      "UPDATE jobs SET owner = ?, status = ?, flags = ?, ranks = ?, settings = ?, created_at = ?, started_at "
      "= ?, "
      "completed_at = ?, expired_at = ?, deleted_at = ?, run_seconds = ?, error_code = ?, error = ?, bytes = "
      "?, "
      "has_tensors = ?, prompt = ? WHERE id = ?");
  bind_values(query, record);
  query.bind(record.id).next();
}

std::optional<Record> Records::find(const std::string& id) const {
  std::lock_guard lock(mutex_);
  auto query =
      database_.query(fmt::format("SELECT {} FROM jobs WHERE id = ? AND deleted_at = 0", kRecordColumns));
  return query.bind(id).next() ? std::optional(record_in(query)) : std::nullopt;
}

std::vector<Record> Records::list(const Wish& wish) const {
  std::lock_guard lock(mutex_);
  const auto where =
      fmt::format("created_at >= ? AND created_at <= ?{}{}{}{}{}",
                  wish.with_deleted ? "" : " AND deleted_at = 0", wish.owner ? " AND owner = ?" : "",
                  wish.statuses.empty()
                      ? ""
                      : fmt::format(" AND status IN ({})",
                                    fmt::join(std::vector<std::string>(wish.statuses.size(), "?"), ", ")),
                  wish.words.empty() ? "" : " AND prompt LIKE ? ESCAPE '\\'",
                  wish.after.empty() ? ""
                                     : fmt::format(" AND number {} (SELECT number FROM jobs WHERE id = ?)",
                                                   wish.is_newest_first ? "<" : ">"));
  auto query = database_.query(fmt::format("SELECT {} FROM jobs WHERE {} ORDER BY number {} LIMIT ?",
                                           kRecordColumns, where, wish.is_newest_first ? "DESC" : "ASC"));
  query.bind(wish.from).bind(wish.to);
  if (wish.owner) query.bind(*wish.owner);
  for (const auto& status : wish.statuses) query.bind(status);
  if (!wish.words.empty()) query.bind(pattern_of(wish.words));
  if (!wish.after.empty()) query.bind(wish.after);
  query.bind(wish.limit);
  std::vector<Record> records;
  while (query.next()) records.push_back(record_in(query));
  return records;
}

Records::Totals Records::totals(const std::optional<std::string>& owner) const {
  std::lock_guard lock(mutex_);
  auto query =
      database_.query(fmt::format("SELECT status, COUNT(*), SUM(run_seconds) FROM jobs {} GROUP BY status",
                                  owner ? "WHERE owner = ?" : ""));
  if (owner) query.bind(*owner);
  Totals totals;
  for (const auto* status : {"queued", "in_progress", "completed", "failed", "cancelled"})
    totals.of_status[status] = 0;
  while (query.next()) {
    totals.of_status[query.text(0)] = query.number(1);
    totals.run_seconds += query.amount(2);
  }
  return totals;
}

std::vector<Record> Records::with_files() const {
  std::lock_guard lock(mutex_);
  auto query = database_.query(
      fmt::format("SELECT {} FROM jobs WHERE bytes > 0 AND expired_at = 0 AND deleted_at = 0 ORDER BY number",
                  kRecordColumns));
  std::vector<Record> records;
  while (query.next()) records.push_back(record_in(query));
  return records;
}

}  // namespace wan::serve
