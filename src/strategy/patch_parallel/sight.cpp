#include "strategy/patch_parallel/sight.hpp"

#include <algorithm>

namespace wanpar {
namespace {

void append(Ranges& all, const Ranges& more) { all.insert(all.end(), more.begin(), more.end()); }

Ranges whole(const Ranges& tokens) { return {{0, length(tokens)}}; }

/// The tokens of rows or frames [begin, end).
Ranges tokens_of(const SplitPlacement& place, int64_t begin, int64_t end) {
  begin = std::max<int64_t>(0, begin), end = std::min(place.total(), end);
  Ranges tokens;
  for (int64_t b = 0; b < place.before; ++b)
    tokens.push_back({(b * place.total() + begin) * place.after, (b * place.total() + end) * place.after});
  return tokens;
}

/// The rows or frames of a patch.
Range extent_of(const SplitPlacement& place, int patch) {
  const auto ranges = place.layout->groups()[patch];
  return {ranges.front().begin, ranges.back().end};
}

/// The rows or frames that a patch attends to.
struct Span {
  Range queries, keys;
};
std::vector<Span> spans_of(const Range& patch, const Reach& reach) {
  if (!reach.chunk) return {{patch, {patch.begin - reach.overlap, patch.end + reach.overlap}}};
  std::vector<Span> spans;
  for (auto begin = patch.begin / *reach.chunk * *reach.chunk; begin < patch.end; begin += *reach.chunk) {
    const auto end = begin + *reach.chunk;
    spans.push_back({{std::max(begin, patch.begin), std::min(end, patch.end)},
                     {begin - reach.overlap, end + reach.overlap}});
  }
  return spans;
}

/// All that a patch attends to, as one range.
Ranges seen_by(const SplitPlacement& place, int patch, const Reach& reach) {
  const auto own = extent_of(place, patch);
  const auto spans = spans_of(own, reach);
  return tokens_of(place, std::min(own.begin, spans.front().keys.begin),
                   std::max(own.end, spans.back().keys.end));
}

}  // namespace

Ranges positions(const Ranges& tokens, const Ranges& others) {
  Ranges found;
  int64_t begin = 0;  // position of this range among the tokens
  for (auto& range : tokens) {
    for (auto& other : others) {
      const auto from = std::max(range.begin, other.begin), to = std::min(range.end, other.end);
      if (from < to) found.push_back({begin + from - range.begin, begin + to - range.begin});
    }
    begin += range.size();
  }
  if (found.empty()) found.push_back({0, 0});
  return found;
}

Ranges tokens_at(const Ranges& tokens, const Ranges& positions) {
  Ranges found;
  for (auto& wanted : positions) {
    int64_t begin = 0;
    for (auto& range : tokens) {
      const auto from = std::max(wanted.begin, begin), to = std::min(wanted.end, begin + range.size());
      if (from < to) found.push_back({range.begin + from - begin, range.begin + to - begin});
      begin += range.size();
    }
  }
  if (found.empty()) found.push_back({0, 0});
  return found;
}

Sight everything(const std::vector<Ranges>& held, int here) {
  Sight sight{true, {}, {}, {}, {}};
  for (auto& tokens : held) {
    append(sight.tokens, tokens);
    sight.from.push_back(whole(tokens));
    sight.to.push_back(whole(held[here]));
  }
  sight.windows = {{held[here], sight.tokens}};
  return sight;
}

Sight within_reach(const std::vector<Ranges>& held, int here, const SplitPlacement& place,
                   const Reach& reach) {
  Sight sight{false, {}, {}, {}, {}};
  const auto seen = seen_by(place, here, reach);
  for (int r = 0; r < static_cast<int>(held.size()); ++r) {
    const bool is_own = r == here;
    sight.from.push_back(is_own ? whole(held[r]) : positions(held[r], seen));
    sight.to.push_back(is_own ? Ranges{{0, 0}} : positions(held[here], seen_by(place, r, reach)));
    append(sight.tokens, tokens_at(held[r], sight.from.back()));
  }
  for (auto& span : spans_of(extent_of(place, here), reach))
    sight.windows.push_back({tokens_of(place, span.queries.begin, span.queries.end),
                             tokens_of(place, span.keys.begin, span.keys.end)});
  return sight;
}

}  // namespace wanpar
