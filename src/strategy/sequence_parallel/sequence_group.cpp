#include "strategy/sequence_parallel/sequence_group.hpp"

#include "strategy/sequence_parallel/split_attention.hpp"
#include "strategy/split/attention_on_parts.hpp"

namespace wanpar {

std::optional<SplitPlacement> SequenceGroup::placement(int64_t tokens, int64_t dim) const {
  if (tokens < options_.min_share * size()) return {};
  return SplitPlacement{std::make_shared<TokenLayout>(layout(tokens)), rank(), dim};
}

at::Tensor SequenceGroup::attention(const Attention& call) const {
  exchanges("attention");
  return attention_on_parts(call, shared_from_this(), MergedKeys::gathered,
                            [this](const SplitPlacement& place, Attention parts) {
                              return split_attention(options_, *place.layout, std::move(parts));
                            });
}

const std::string& SequenceGroup::name() const {
  static const std::string name = "SequenceParallel";
  return name;
}

}  // namespace wanpar
