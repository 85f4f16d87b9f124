#include "strategy/patch_parallel/displaced_attention.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>

#include <wanpar/extend/module/linear_map.hpp>
#include "strategy/patch_parallel/packed_pair.hpp"
#include "strategy/split/attention_on_parts.hpp"

namespace wanpar {
namespace {

using KeysAndValues = std::vector<at::Tensor>;  // keys, values

KeysAndValues taken(const KeysAndValues& pair, const Ranges& positions) {
  return {select_ranges(pair[0], PackedPair::kTokens, positions),
          select_ranges(pair[1], PackedPair::kTokens, positions)};
}

/// The exchange of keys and values between patches.
class Exchange {
 public:
  Exchange(const Communicator& patches, const Sight& sight, PackedPair pair)
      : patches_(patches), sight_(sight), pair_(std::move(pair)) {
    for (auto& tokens : sight_.from) numels_.push_back(length(tokens) ? pair_.numel(length(tokens)) : 0);
    if (!sight_.is_everything) {
      numels_[here()] = 0;
      for (auto& tokens : sight_.to)
        if (length(tokens)) numels_[here()] += pair_.numel(length(tokens));
    }
  }

  /// What this patch sends.
  at::Tensor sent(const KeysAndValues& own) const {
    if (sight_.is_everything) return pair_.packed(own);
    std::vector<at::Tensor> pieces{pair_.packed(taken(own, {{0, 0}})).narrow(0, 0, 0)};
    for (auto& tokens : sight_.to)
      if (length(tokens)) pieces.push_back(pair_.packed(taken(own, tokens)));
    return at::cat(pieces);
  }
  /// What is sent, unpacked to one flat tensor of numbers, to measure its staleness.
  at::Tensor numbers(const at::Tensor& sent) const {
    std::vector<at::Tensor> all;
    auto add = [&](const at::Tensor& flat, int64_t tokens) {
      for (auto& x : pair_.unpacked(flat, tokens)) all.push_back(x.reshape({-1}));
    };
    if (sight_.is_everything)
      add(sent, length(sight_.from[here()]));
    else
      each_piece(sent, [&](const at::Tensor& piece, int r) { add(piece, length(sight_.to[r])); });
    return all.empty() ? sent.to(at::kFloat) : at::cat(all);
  }

  /// Starts the exchange; the returned function waits, and returns what each rank has sent here, including
  /// this one.
  std::function<FromRanks()> start(at::Tensor sent) const {
    if (sight_.is_everything) {
      auto flat = std::make_shared<Pending<at::Tensor>>(patches_.all_gather(std::move(sent), 0, numels_));
      return [flat, numels = numels_] { return flat->get().split_with_sizes(numels); };
    }
    std::vector<Send> sends;
    std::vector<Receive> receives;
    each_piece(sent, [&](const at::Tensor& piece, int r) { sends.push_back({piece, r}); });
    for (int r = 0; r < patches_.size(); ++r)
      if (r != here() && numels_[r] > 0) receives.push_back({{numels_[r]}, sent.options(), r});
    auto coming = std::make_shared<Pending<std::vector<at::Tensor>>>(
        patches_.exchange(std::move(sends), std::move(receives)));
    return [coming, sent, numels = numels_, here = here()] {
      FromRanks all(numels.size(), sent.narrow(0, 0, 0));
      auto came = coming->get();
      auto next = came.begin();
      for (size_t r = 0; r < all.size(); ++r)
        if (static_cast<int>(r) == here)
          all[r] = sent;
        else if (numels[r] > 0)
          all[r] = std::move(*next++);
      return all;
    };
  }
  /// Selects, from an unlimited exchange, what this exchange would have returned.
  FromRanks of(const Exchange& exact, const FromRanks& all) const {
    FromRanks some;
    for (int r = 0; r < patches_.size(); ++r) {
      const auto pair = exact.unpacked(all, r);
      some.push_back(r == here() ? sent(pair) : pair_.packed(taken(pair, sight_.from[r])));
    }
    return some;
  }

  /// Concatenates the received keys and values with this patch's own, which are not packed.
  KeysAndValues joined(const FromRanks& flat, const KeysAndValues& own) const {
    KeysAndValues keys, values;
    for (int r = 0; r < patches_.size(); ++r) {
      if (r != here() && numels_[r] == 0) continue;
      const auto one = r == here() ? own : unpacked(flat, r);
      keys.push_back(one[0]), values.push_back(one[1]);
    }
    return {at::cat(keys, PackedPair::kTokens), at::cat(values, PackedPair::kTokens)};
  }

  int64_t bytes_held() const {
    return pair_.element_size() * std::accumulate(numels_.begin(), numels_.end(), int64_t{0});
  }
  int64_t bytes_sent() const {
    return pair_.element_size() * numels_[here()] * (sight_.is_everything ? patches_.size() - 1 : 1);
  }

 private:
  int here() const { return patches_.rank(); }
  KeysAndValues unpacked(const FromRanks& flat, int rank) const {
    return pair_.unpacked(flat[rank], length(sight_.from[rank]));
  }
  template <class Action>
  void each_piece(const at::Tensor& sent, const Action& action) const {
    int64_t at = 0;
    for (int r = 0; r < patches_.size(); ++r) {
      const auto tokens = length(sight_.to[r]);
      if (tokens == 0) continue;
      action(sent.narrow(0, at, pair_.numel(tokens)), r);
      at += pair_.numel(tokens);
    }
  }

  Communicator patches_;
  const Sight& sight_;
  PackedPair pair_;
  std::vector<int64_t> numels_;
};

/// Keys and values of this step, differentiable: gradients are summed over all ranks' queries.
KeysAndValues of_all(const Exchange& exchange, const Communicator& patches, const Sight& sight,
                     const KeysAndValues& own) {
  std::vector<int64_t> lengths;
  for (auto& tokens : sight.from) lengths.push_back(length(tokens));
  return linear_map(
      own, [&](const KeysAndValues& x) { return exchange.joined(exchange.start(exchange.sent(x))(), x); },
      [patches, lengths](KeysAndValues gradients) {
        for (auto& x : gradients) x = patches.reduce_scatter(x, PackedPair::kTokens, lengths).get();
        return gradients;
      });
}

/// Attention of each window's queries to its keys.
at::Tensor attention_in(const std::vector<Window>& windows, const Ranges& own, const Ranges& columns,
                        int64_t total, const Attention& call) {
  std::vector<at::Tensor> parts;
  for (auto& window : windows) {
    const auto rows = positions(own, window.queries), seen = positions(columns, window.keys);
    auto part = call;
    if (length(rows) != length(own)) part.query = select_ranges(call.query, PackedPair::kTokens, rows);
    const bool sees_all = length(seen) == length(columns);
    if (!sees_all)
      part.key = select_ranges(call.key, PackedPair::kTokens, seen),
      part.value = select_ranges(call.value, PackedPair::kTokens, seen);
    parts.push_back(attention_between(
        "PatchParallel", {tokens_at(own, rows), total, sees_all ? columns : tokens_at(columns, seen), total},
        part));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, PackedPair::kTokens);
}

std::vector<int64_t> shape_of(const Attention& call, int64_t tokens) {
  auto shape = call.key.sizes().vec();
  shape[PackedPair::kTokens] = tokens;
  shape.push_back(call.value.size(1));
  shape.push_back(call.value.size(3));
  return shape;
}

}  // namespace

at::Tensor displaced_attention(const Communicator& patches, const SplitPlacement& place,
                               const StaleKeys& options, PatchSteps& steps, Attention call) {
  const auto held = place.elements().groups();
  const auto here = patches.rank();
  const auto total = place.global_extent();
  const KeysAndValues own{call.key, call.value};
  auto attention_to = [&](const Sight& sight, const Ranges& columns, const KeysAndValues& pair) {
    call.key = pair[0], call.value = pair[1];
    return attention_in(sight.windows, held[here], columns, total, call);
  };
  const auto all = everything(held, here);
  const Exchange exact(patches, all, PackedPair(call.key, call.value, {}));
  if (!steps.keeps()) return attention_to(all, all.tokens, of_all(exact, patches, all, own));

  const auto sight = options.reach ? within_reach(held, here, place, *options.reach) : all;
  const Exchange stale(patches, sight, PackedPair(call.key, call.value, options.dtype));
  if (options.is_waited_for) {  // stores nothing for the next step
    auto& seen = steps.is_displaced() ? sight : all;
    auto& exchange = steps.is_displaced() ? stale : exact;
    steps.count_sent(exchange.bytes_sent());
    return attention_to(seen, seen.tokens, exchange.joined(exchange.start(exchange.sent(own))(), own));
  }

  auto sent = stale.sent(own);
  auto& kept = steps.next_buffer("keys and values", shape_of(call, total));
  const auto before = kept.take();
  if (before) kept.note_change(stale.numbers(sent), stale.numbers((*before)[here]));
  if (!steps.is_displaced()) {
    const auto now = exact.start(exact.sent(own))();
    steps.count_sent(exact.bytes_sent());
    const bool is_the_same = !options.dtype && !options.reach;
    kept.keep(steps.step(), is_the_same ? now : stale.of(exact, now));
    return attention_to(all, all.tokens, exact.joined(now, own));
  }
  steps.count_sent(stale.bytes_sent());
  kept.keep(steps.step(), stale.start(std::move(sent)), stale.bytes_held());
  if (!before) return attention_to(sight, held[here], own);
  return attention_to(sight, sight.tokens, stale.joined(*before, own));
}

}  // namespace wanpar
