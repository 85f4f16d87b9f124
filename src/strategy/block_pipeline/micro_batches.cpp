#include "strategy/block_pipeline/micro_batches.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/error.hpp>

#include "core/arguments.hpp"

namespace wanpar {

std::vector<int64_t> micro_batch_sizes(int64_t samples, int64_t micro_batches) {
  return even_sizes(samples, std::max<int64_t>(1, std::min(samples, micro_batches)));
}

at::Tensor samples_of(const at::Tensor& x, std::span<const int64_t> sizes, int64_t micro_batch) {
  if (sizes.size() == 1) return x;
  return x.narrow(0, total(sizes.first(micro_batch)), sizes[micro_batch]);
}

std::vector<Side> sides_of(const std::vector<at::Tensor>& side, const std::vector<Side>& stated,
                           int64_t samples, size_t micro_batches) {
  std::vector<Side> sides(side.size(), Side::replicate);
  if (micro_batches == 1) return sides;
  if (!stated.empty() && stated.size() != side.size())
    throw UsageError(
        fmt::format("BlockPipeline: .side states {} tensors, but the blocks are given {} beside x",
                    stated.size(), side.size()));
  for (size_t i = 0; i < side.size(); ++i) {
    bool is_as_long = side[i].defined() && side[i].dim() > 0 && side[i].size(0) == samples;
    if (!stated.empty()) {
      sides[i] = stated[i];
      if (side[i].defined() && stated[i] == Side::split && !is_as_long)
        throw UsageError(
            fmt::format("BlockPipeline: side tensor {} is {}, which cannot be cut into micro-batches of a "
                        "batch of {}; state it as Side::replicate",
                        i, side[i].sizes(), samples));
    } else if (is_as_long) {
      throw UsageError(
          fmt::format("BlockPipeline: side tensor {} is {} beside a batch of {}: that may or may not be the "
                      "batch; state Side::split or Side::replicate for each side tensor in .side",
                      i, side[i].sizes(), samples));
    }
  }
  return sides;
}

}  // namespace wanpar
