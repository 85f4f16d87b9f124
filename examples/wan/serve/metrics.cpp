#include "wan/serve/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace wan::serve {
namespace {

/// A metric with its help and type, and a line for each value.
class Page {
 public:
  void metric(const char* name, const char* type, const char* help) {
    name_ = name;
    text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  template <class Value>
  void value(const Value& value, const std::string& labels = {}) {
    text_ += fmt::format("{}{} {}\n", name_, labels, value);
  }
  std::string text() && { return std::move(text_); }

 private:
  std::string name_, text_;
};

}  // namespace

std::string metrics_of(const Jobs& jobs, const Status& status, const Server& server) {
  const auto counts = jobs.counts();
  Page page;
  page.metric("wanpar_up_seconds", "gauge", "Seconds since the server was started.");
  page.value(status.uptime());
  page.metric("wanpar_ready", "gauge", "Whether weights are loaded and all ranks are there.");
  page.value(status.state() == "ready" ? 1 : 0);
  page.metric("wanpar_num_requests_running", "gauge", "Jobs that run.");
  page.value(counts.running.empty() ? 0 : 1);
  page.metric("wanpar_num_requests_waiting", "gauge", "Jobs that wait.");
  page.value(counts.waiting);
  page.metric("wanpar_queue_capacity", "gauge", "Jobs that may wait.");
  page.value(counts.capacity);
  page.metric("wanpar_requests_accepted_total", "counter", "Jobs that were put into the queue.");
  page.value(counts.accepted);
  page.metric("wanpar_requests_refused_total", "counter", "Jobs that were refused for a full queue.");
  page.value(counts.refused);
  page.metric("wanpar_requests_total", "counter", "Jobs that are over, by how they ended.");
  for (const auto* ended : {"completed", "failed", "cancelled"}) {
    const auto found = counts.ended.find(ended);
    page.value(found == counts.ended.end() ? 0 : found->second, fmt::format("{{status=\"{}\"}}", ended));
  }
  page.metric("wanpar_run_seconds_total", "counter", "Seconds that jobs ran.");
  page.value(counts.run_seconds);
  page.metric("wanpar_queue_seconds_total", "counter", "Seconds that jobs waited before they ran.");
  page.value(counts.queue_seconds);
  page.metric("wanpar_disk_used_bytes", "gauge", "Bytes of videos that are kept.");
  page.value(counts.used_bytes);
  page.metric("wanpar_disk_quota_bytes", "gauge", "Bytes of videos that may be kept.");
  page.value(counts.quota_bytes);
  page.metric("wanpar_http_connections", "gauge", "Open connections.");
  page.value(server.connections());
  page.metric("wanpar_http_answers_total", "counter", "Answers by their HTTP status.");
  for (const auto& [code, count] : server.answers()) page.value(count, fmt::format("{{code=\"{}\"}}", code));
  const auto ranks = status.ranks();
  const auto lost = status.lost_ranks();
  const auto each = [&](const auto& value_of) {
    for (size_t rank = 0; rank < ranks.size(); ++rank)
      page.value(value_of(rank), fmt::format("{{rank=\"{}\"}}", rank));
  };
  page.metric("wanpar_rank_up", "gauge", "Whether the rank is there.");
  each([&](size_t rank) {
    return std::count(lost.begin(), lost.end(), static_cast<int64_t>(rank)) == 0 ? 1 : 0;
  });
  page.metric("wanpar_rank_memory_bytes", "gauge", "Memory that the rank has.");
  each([&](size_t rank) { return ranks[rank].memory_bytes; });
  page.metric("wanpar_rank_memory_peak_bytes", "gauge", "The most memory that the rank had.");
  each([&](size_t rank) { return ranks[rank].memory_peak_bytes; });
  page.metric("wanpar_rank_step_seconds", "gauge", "Seconds of the rank's last step.");
  each([&](size_t rank) { return ranks[rank].step_seconds; });
  return std::move(page).text();
}

}  // namespace wan::serve
