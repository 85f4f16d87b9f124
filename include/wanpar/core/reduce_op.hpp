#pragma once

namespace wanpar {

/// How the values of the ranks are combined.
enum class ReduceOp { sum, mean, product, min, max };

}  // namespace wanpar
