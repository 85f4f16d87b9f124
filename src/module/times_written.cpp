#include "module/times_written.hpp"

#include <fmt/format.h>

#include <wanpar/core/error.hpp>

namespace wanpar {

std::vector<int64_t> times_written(const NamedTensors& tensors) {
  std::vector<int64_t> times;
  for (auto& item : tensors) times.push_back(times_written(item.tensor));
  return times;
}

void refuse_written(const std::string& strategy, const NamedTensors& parameters,
                    const std::vector<int64_t>& before) {
  const auto now = times_written(parameters);
  for (size_t i = 0; i < now.size(); ++i)
    if (now[i] != before[i])
      throw UsageError(
          fmt::format("{}: the module writes to its parameter {} in forward, as an embedding with max_norm "
                      "does: each rank by its own samples, so that their weights would part; do so behind "
                      "the optimizer's step, where every rank does the same",
                      strategy, parameters[i].name));
}

}  // namespace wanpar
