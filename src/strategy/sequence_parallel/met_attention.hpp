#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "module/follow/follow.hpp"

namespace wanpar {

/// What to do about what SequenceParallel cannot split.
inline constexpr const char* kSequenceRemedy =
    "call at::scaled_dot_product_attention instead, or keep this part outside split_sequence and "
    "gather_sequence";

/// What became of an attention: taken over, or left to this rank alone.
struct Met {
  std::vector<int64_t> query, key;  // shapes
  std::optional<SplitPlace> over;   // the split that its keys stem from, and is attended over
  std::optional<SplitPlace> rows;   // the split that its queries alone stem from: the keys are whole

  bool operator==(const Met&) const = default;
};

/// What kind of attention this is, told by where its inputs stem from. Throws Error for one that cannot be
/// split.
Met meet(const Follow& follow, std::span<const at::Tensor> inputs);

/// Whether this operator attends without being scaled_dot_product_attention.
bool is_fused_attention(const std::string& name);

}  // namespace wanpar
