#pragma once
#include "module/follow/rules.hpp"

namespace wanpar {

/// Where the samples go in operators that treat each one for itself, and of which Follow, which knows of one
/// dimension like any other, says nothing or no: products and attention of what holds the samples on both
/// sides, pools, recurrent layers, indices. `outputs` are those that the operator gave. None for any other
/// operator.
std::optional<Verdict> samplewise(const Step& step);

/// The place in each output of an operator whose outputs differ in it.
std::optional<std::vector<int64_t>> samplewise_dims(const Step& step);

}  // namespace wanpar
