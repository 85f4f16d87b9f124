#pragma once
#include "module/follow/rules.hpp"

namespace wanpar {

/// The rule of operators that treat samples independently, but that the generic rules of Follow, which see
/// the batch as any other dimension, reject or do not cover: batched products and attention, pools, recurrent
/// layers, indexing. nullopt for any other operator.
std::optional<Verdict> samplewise(const Step& step);

/// The batch dimension of each output, for operators whose outputs differ in it.
std::optional<std::vector<int64_t>> samplewise_dims(const Step& step);

}  // namespace wanpar
