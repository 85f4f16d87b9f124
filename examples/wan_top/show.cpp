#include "wan_top/show.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace wan_top {
namespace {

using Row = std::vector<std::string>;
constexpr const char* kUnknown = "-";

std::string gigabytes(const std::optional<uint64_t>& bytes) {
  return bytes ? fmt::format("{:.1f}", static_cast<double>(*bytes) / (1 << 30)) : kUnknown;
}

std::string whole(const std::optional<double>& value) {
  return value ? fmt::format("{:.0f}", *value) : kUnknown;
}

/// "70/700", where both are known.
std::string of(const std::string& value, const std::string& limit) {
  return value == kUnknown || limit == kUnknown ? value : value + "/" + limit;
}

std::string joined(const std::vector<std::string>& words) {
  return words.empty() ? kUnknown : fmt::format("{}", fmt::join(words, ", "));
}

/// Columns as wide as their widest cell; the first row is their heads.
std::string table(const std::vector<Row>& rows, size_t width) {
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}  ", row[i], widths[i]);
    text += line.substr(0, width) + "\n";
  }
  return text;
}

template <class T>
nlohmann::json value_of(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

}  // namespace

std::string screen(const Reading& reading, size_t width) {
  std::vector<Row> devices{
      {"DEVICE", "NAME", "MEMORY GiB", "USED %", "TEMP C", "POWER W", "CLOCK MHz", "THROTTLED BY"}};
  for (const auto& d : reading.devices)
    devices.push_back({std::to_string(d.index),
                       d.fault.empty() ? d.name : d.name + " (left out: " + d.fault + ")",
                       of(gigabytes(d.memory_used), gigabytes(d.memory_total)), whole(d.utilisation),
                       whole(d.temperature), of(whole(d.power), whole(d.power_limit)),
                       of(whole(d.clock), whole(d.clock_limit)), joined(d.throttled_by)});
  auto text =
      fmt::format("{}, by {}\n", reading.host, reading.source).substr(0, width) + table(devices, width);

  if (reading.ranks.empty()) return text + "\nno ranks of a run on this host\n";
  std::vector<Row> ranks{{"RUN", "RANK", "PROCESS", "PROGRAM", "STATE", "CPU %", "MEMORY GiB", "DEVICES"}};
  for (const auto& r : reading.ranks)
    ranks.push_back({r.run.empty() ? kUnknown : r.run, fmt::format("{}/{}", r.rank, r.ranks),
                     std::to_string(r.process), r.program, r.state, whole(r.utilisation), gigabytes(r.memory),
                     r.devices.empty() ? kUnknown
                                       : fmt::format("{}: {} GiB", fmt::join(r.devices, ", "),
                                                     gigabytes(r.device_memory))});
  return text + "\n" + table(ranks, width);
}

std::string json(const Reading& reading) {
  nlohmann::ordered_json all{{"host", reading.host}, {"source", reading.source}};
  all["devices"] = nlohmann::json::array();
  for (const auto& d : reading.devices)
    all["devices"].push_back({{"index", d.index},
                              {"name", d.name},
                              {"memory_used", value_of(d.memory_used)},
                              {"memory_total", value_of(d.memory_total)},
                              {"utilisation", value_of(d.utilisation)},
                              {"temperature", value_of(d.temperature)},
                              {"power", value_of(d.power)},
                              {"power_limit", value_of(d.power_limit)},
                              {"clock", value_of(d.clock)},
                              {"clock_limit", value_of(d.clock_limit)},
                              {"throttled_by", d.throttled_by},
                              {"fault", d.fault}});
  all["ranks"] = nlohmann::json::array();
  for (const auto& r : reading.ranks)
    all["ranks"].push_back({{"run", r.run},
                            {"rank", r.rank},
                            {"ranks", r.ranks},
                            {"process", r.process},
                            {"program", r.program},
                            {"state", r.state},
                            {"utilisation", value_of(r.utilisation)},
                            {"memory", value_of(r.memory)},
                            {"device_memory", value_of(r.device_memory)},
                            {"devices", r.devices}});
  // Names of programs may be no UTF-8.
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace wan_top
