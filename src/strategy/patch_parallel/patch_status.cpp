#include <fmt/format.h>

#include <cmath>
#include <wanpar/strategy/patch_parallel.hpp>

namespace wanpar {

std::string PatchStatus::text() const {
  auto text = fmt::format("PatchParallel: {}{}, {} bytes sent, {} bytes held\n", mode,
                          step ? fmt::format(", step {}", *step) : "", bytes_sent, bytes_held);
  for (auto& buffer : buffers)
    text += fmt::format("  call {}, place {}: {}, {} steps old, {}{} bytes\n", buffer.call, buffer.place,
                        buffer.what, buffer.age,
                        buffer.staleness ? fmt::format("changed by {:.3g}, ", *buffer.staleness) : "",
                        buffer.bytes);
  return text;
}

std::string PatchStatus::json() const {
  std::string all;
  for (auto& buffer : buffers)
    all += fmt::format(
        R"({}{{"call": {}, "place": {}, "what": "{}", "age": {}, "staleness": {}, "bytes": {}}})",
        all.empty() ? "" : ", ", buffer.call, buffer.place, buffer.what, buffer.age,
        buffer.staleness && std::isfinite(*buffer.staleness) ? fmt::format("{:.9g}", *buffer.staleness)
                                                             : "null",
        buffer.bytes);
  return fmt::format(R"({{"mode": "{}", "step": {}, "bytes_sent": {}, "bytes_held": {}, "buffers": [{}]}})",
                     mode, step ? fmt::format("{}", *step) : "null", bytes_sent, bytes_held, all);
}

}  // namespace wanpar
