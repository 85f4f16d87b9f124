#include "strategy/sequence_parallel/split_attention.hpp"

#include "strategy/sequence_parallel/ring.hpp"
#include "strategy/split/attention_on_parts.hpp"
#include "strategy/split/ulysses.hpp"

namespace wanpar {
namespace {

/// Attention between all tokens, in rank order; the mask's columns are in the order of the sequence.
at::Tensor full_attention(const std::string& who, const TokenLayout& place, Attention call) {
  bool goes_by_order = call.mask || call.causal;
  if (!goes_by_order || place.is_in_order()) return local_attention(who, call);
  for (auto* x : {&call.query, &call.key, &call.value}) *x = place.in_order(*x, 2);
  return place.by_rank(local_attention(who, call), 2);
}

}  // namespace

at::Tensor split_attention(const SequenceParallelOptions& options, const TokenLayout& layout,
                           Attention call) {
  const auto ring = options.ring.rank();
  auto around_the_ring = [&](Attention all) {
    if (options.ring.size() == 1) return full_attention("SequenceParallel", layout, std::move(all));
    if (all.mask && all.mask->size(-2) > 1) all.mask = select_ranges(*all.mask, -2, layout.groups()[ring]);
    return ring_attention(options.ring, std::move(all), layout.groups());
  };
  return ulysses_attention(options.ulysses, std::move(call), layout.lengths(ring), around_the_ring);
}

}  // namespace wanpar
