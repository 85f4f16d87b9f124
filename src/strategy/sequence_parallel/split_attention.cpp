#include "strategy/sequence_parallel/split_attention.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/error.hpp>

#include "module/attention_parts.hpp"
#include "module/linear_map.hpp"
#include "strategy/sequence_parallel/ring.hpp"
#include "strategy/sequence_parallel/ulysses.hpp"

namespace wanpar {

void check_split_attention(const Attention& call, int64_t total) {
  if (call.dropout > 0)
    throw Error(
        "SequenceParallel: attention with dropout cannot be split exactly; call eval(), or set its dropout "
        "to 0");
  if (call.query.dim() < 3)
    throw Error(fmt::format("SequenceParallel: attention without a head dimension, {}, cannot be split",
                            call.query.sizes()));
  if (!call.mask) return;
  if (call.query.dim() > 4)
    throw Error(
        fmt::format("SequenceParallel: a masked attention of {} cannot be split; give it as [batch, heads, "
                    "tokens, channels]",
                    call.query.sizes()));
  bool columns_whole = call.mask->size(-1) == total;
  bool rows_whole = call.mask->dim() < 2 || call.mask->size(-2) == 1 || call.mask->size(-2) == total;
  if (!columns_whole || !rows_whole)
    throw Error(
        fmt::format("SequenceParallel: a mask {} for {} tokens; give the mask whole, it is cut inside",
                    call.mask->sizes(), total));
}

at::Tensor local_attention(const Attention& call) {
  if (call.query.numel() > 0 && call.key.numel() > 0) return attend(call);
  std::vector<at::Tensor> inputs{call.query, call.key, call.value}, zeros;
  if (call.mask) inputs.push_back(*call.mask);
  for (auto& x : inputs) zeros.push_back(at::zeros({1}, x.options()).expand(x.sizes()));
  return linear_map(
      inputs, [&](auto&&) { return std::vector{attention_with_lse(call).out}; },
      [zeros](auto&&) { return zeros; })[0];
}

at::Tensor attention_of_rows(const SplitPlace& at, const Ranges& mine, Attention call) {
  const auto all = at.before * at.total * at.after;
  auto numbered = [&](int64_t n) { return at::arange(n, call.query.options().dtype(at::kLong)); };
  auto rows = take(numbered(all).view({at.before, at.total, at.after}), 1, mine).flatten();
  if (call.mask && call.mask->dim() >= 2 && call.mask->size(-2) != 1) {
    if (call.mask->size(-2) != all)
      throw Error(
          fmt::format("SequenceParallel: a mask {} for {} queries; give the mask whole, it is cut inside",
                      call.mask->sizes(), all));
    call.mask = call.mask->index_select(-2, rows);
  } else if (call.causal && !call.mask) {  // query i attends to keys 0 to i
    call.mask = numbered(call.key.size(-2)).le(rows.unsqueeze(1));
    call.causal = false;
  }
  return local_attention(call);
}

at::Tensor split_attention(const SequenceParallelOptions& options, const TokenLayout& place, Attention call) {
  const auto ring = options.ring.rank();
  const auto& lengths = place.lengths(ring);
  auto shape = call.query.sizes().vec();
  call.query = with_one_batch(call.query), call.key = with_one_batch(call.key),
  call.value = with_one_batch(call.value);

  auto around_the_ring = [&](Attention all) {
    if (all.mask && all.mask->dim() >= 2 && all.mask->size(-2) > 1)
      all.mask = take(*all.mask, -2, place.groups()[ring]);
    return options.ring.size() == 1 ? local_attention(all)
                                    : ring_attention(options.ring, all, place.groups());
  };
  auto out = options.ulysses.size() == 1 ? around_the_ring(call)
                                         : ulysses_attention(options.ulysses, call, lengths, around_the_ring);
  shape.back() = out.size(-1);
  return out.dim() == static_cast<int64_t>(shape.size()) ? out : out.reshape(shape);
}

}  // namespace wanpar
