#include "strategy/sequence_parallel/met_attention.hpp"

#include <unordered_set>
#include <wanpar/core/error.hpp>

namespace wanpar {

bool is_fused_attention(const std::string& name) {
  static const std::unordered_set<std::string> fused{"aten::_native_multi_head_attention",
                                                     "aten::_transformer_encoder_layer_fwd",
                                                     "aten::_scaled_dot_product_flash_attention_for_cpu",
                                                     "aten::_scaled_dot_product_flash_attention",
                                                     "aten::_scaled_dot_product_efficient_attention",
                                                     "aten::_scaled_dot_product_cudnn_attention",
                                                     "aten::_scaled_dot_product_attention_math"};
  return fused.contains(name);
}

Met meet(const Follow& follow, std::span<const at::Tensor> inputs) {
  auto &query = inputs[0], &key = inputs[1], &value = inputs[2];
  Met met{query.sizes().vec(), key.sizes().vec(), {}, {}};
  auto *queries = follow.of(query), *keys = follow.of(key), *values = follow.of(value);
  if (inputs.size() > 3 && follow.of(inputs[3]))
    throw Error(
        "SequenceParallel: the mask of an attention stems from split tokens; give the mask whole, it is cut "
        "inside");
  auto tokens = query.dim() - 2;
  bool own_rows = queries && queries->single && inputs.size() > 3 && inputs[3].dim() >= 2 &&
                  inputs[3].size(-2) == 1 && follow.may_be_share(inputs[3]);
  if (own_rows)
    throw Error(
        "SequenceParallel: the one row of an attention's mask may be made for the one token that a rank has; "
        "give the mask whole, it is cut inside");
  bool whole_keys = !keys && !values;
  if (whole_keys && queries && queries->dim == tokens) met.rows = *queries;
  if (whole_keys && (!queries || queries->dim <= tokens)) return met;
  bool alike = queries && keys && values && *queries == *keys && *keys == *values;
  if (!alike || queries->dim > tokens)
    throw Error(
        "SequenceParallel: an attention whose queries, keys and values do not all stem from one split "
        "sequence cannot be split; " +
        std::string(kSequenceRemedy));
  // Tokens in a batch dimension (frames, in attention within each frame) attend each for themselves.
  if (queries->dim < tokens) {
    auto shape = query.sizes();
    bool mask_too =
        inputs.size() > 3 && inputs[3].dim() >= static_cast<int64_t>(shape.size()) - queries->dim &&
        inputs[3].size(inputs[3].dim() - (static_cast<int64_t>(shape.size()) - queries->dim)) != 1;
    if (mask_too)
      throw Error("SequenceParallel: a mask of its own for each split element; make it the same for all");
    return met;
  }
  if (queries->before * queries->after != 1)
    throw Error("SequenceParallel: tokens merged with another dimension cannot be attended over; " +
                std::string(kSequenceRemedy));
  met.over = *queries;
  return met;
}

}  // namespace wanpar
