#pragma once

namespace wanpar {

/// How the contributions of the ranks become one value.
enum class ReduceOp { sum, mean, product, min, max };

}  // namespace wanpar
