#include "strategy/block_pipeline/pipeline_boundary.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>
#include <wanpar/core/error.hpp>

namespace wanpar {

Boundary Boundary::of(const at::Tensor& x) {
  if (x.dim() > 16)
    throw UsageError(fmt::format(
        "BlockPipeline: a block gives {}, of more than 16 dimensions; flatten some of them in the block",
        x.sizes()));
  return {x.scalar_type(), x.requires_grad(), false, x.sizes().vec()};
}

std::string Boundary::text() const {
  return fmt::format("{} {:d} {:d} {}", static_cast<int>(dtype), requires_grad, writes,
                     fmt::join(shape, " "));
}

Boundary Boundary::from_text(const std::string& text) {
  std::istringstream words(text);
  int dtype = 0;
  Boundary boundary;
  words >> dtype >> boundary.requires_grad >> boundary.writes;
  boundary.dtype = static_cast<at::ScalarType>(dtype);
  for (int64_t extent; words >> extent;) boundary.shape.push_back(extent);
  return boundary;
}

}  // namespace wanpar
