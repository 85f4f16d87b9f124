#include "wan/serve/history.hpp"

#include <fmt/format.h>

namespace wan::serve {
namespace {

constexpr const char* kColumns[] = {
    "id",      "status",     "created_at",          "started_at",     "completed_at",  "queued_s", "run_s",
    "size",    "num_frames", "num_inference_steps", "guidance_scale", "sample_solver", "seed",     "ranks",
    "degrees", "bytes",      "error_code",          "error",          "prompt"};

nlohmann::json time_or_null(int64_t time) { return time == 0 ? nlohmann::json() : nlohmann::json(time); }

std::string cell(const nlohmann::json& value) {
  if (value.is_null()) return {};
  auto text = value.is_string() ? value.get<std::string>() : value.dump();
  const bool is_formula =
      value.is_string() && !text.empty() && std::string("=+-@\t\r").find(text[0]) != std::string::npos;
  if (is_formula) text.insert(0, "'");
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

nlohmann::json history_row(const Record& record) {
  const auto& s = record.settings;
  return {{"id", record.id},
          {"status", record.status},
          {"created_at", record.created_at},
          {"started_at", time_or_null(record.started_at)},
          {"completed_at", time_or_null(record.completed_at)},
          {"queued_s",
           record.started_at == 0 ? nlohmann::json() : nlohmann::json(record.started_at - record.created_at)},
          {"run_s", record.run_seconds},
          {"size", s.at("size")},
          {"num_frames", s.at("num_frames")},
          {"num_inference_steps", s.at("num_inference_steps")},
          {"guidance_scale", s.at("guidance_scale")},
          {"sample_solver", s.at("sample_solver")},
          {"seed", s.at("seed")},
          {"ranks", record.ranks},
          {"degrees", fmt::format("cfg {} x pipeline {} x patch {} x ring {} x ulysses {}",
                                  s.at("cfg_size").get<int64_t>(), s.at("pipeline_size").get<int64_t>(),
                                  s.value("patch_parallel_size", int64_t{1}),
                                  s.at("ring_size").get<int64_t>(), s.at("ulysses_size").get<int64_t>())},
          {"bytes", record.bytes},
          {"error_code", record.error_code},
          {"error", record.error},
          {"prompt", record.prompt()}};
}

std::string history_csv(const std::vector<Record>& records) {
  std::string text;
  for (const auto* column : kColumns) text += fmt::format("{}{}", text.empty() ? "" : ",", column);
  text += "\r\n";
  for (const auto& record : records) {
    const auto row = history_row(record);
    std::string line;
    for (const auto* column : kColumns) line += (column == kColumns[0] ? "" : ",") + cell(row.at(column));
    text += line + "\r\n";
  }
  return text;
}

}  // namespace wan::serve
