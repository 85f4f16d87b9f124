// Operators that run on every rank alike, and the numbers that they are given.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"
#include "strategy/sequence_parallel/sequence_engine.hpp"

namespace wanpar {
namespace {

c10::IValue with_number(const c10::IValue& value, int item, double number) {
  auto whole = static_cast<int64_t>(number);
  if (value.isInt()) return whole;
  if (value.isDouble()) return number;
  if (value.isIntList()) {
    auto list = value.toIntVector();
    list[item] = whole;
    return list;
  }
  auto list = value.toDoubleVector();
  list[item] = number;
  return list;
}

bool is_constant(const std::vector<Extent>& extents) {
  return std::all_of(extents.begin(), extents.end(), [](auto& extent) { return extent.is_constant(); });
}

}  // namespace

std::vector<std::vector<double>> SequenceEngine::lengths() const {
  std::vector<std::vector<double>> all;
  for (auto& layout : pass_.splits) {
    const auto lengths = layout.lengths();
    all.emplace_back(lengths.begin(), lengths.end());
  }
  return all;
}

/// What the numbers are: told by all ranks' together in a first pass, and later by that.
std::vector<Extent> SequenceEngine::ask(const Operator& op, const std::vector<Number>& numbers) {
  std::vector<double> mine;
  for (auto& number : numbers) mine.push_back(number.value);
  if (pass_.is_first) {
    auto rows = together([&] { return fmt::format("the {} numbers of {}", mine.size(), op.name); },
                         [&] { return group_.rows(mine); });
    const auto each = lengths();
    std::vector<Extent> extents;
    for (size_t i = 0; i < mine.size(); ++i) {
      std::vector<double> values;
      for (auto& row : rows) values.push_back(row[i]);
      auto extent = extent_of(values, each);
      if (!extent) {
        auto& argument = op.handle.schema().arguments()[numbers[i].argument].name();
        throw Error(differs_by_rank(fmt::format("{} is given a number '{}'", op.name, argument), values));
      }
      extents.push_back(*extent);
    }
    pass_.path.answers.push_back({&op.handle.schema(), extents});
    return extents;
  }
  std::vector<double> here;
  for (auto& layout : pass_.splits) here.push_back(static_cast<double>(length(group_.mine(layout))));
  auto fits = [&](const Answer& answer) {
    if (answer.schema != &op.handle.schema() || answer.numbers.size() != mine.size()) return false;
    for (size_t i = 0; i < mine.size(); ++i) {
      auto& extent = answer.numbers[i];
      auto is_known = [&](auto& term) { return term.split < static_cast<int>(here.size()); };
      if (!std::all_of(extent.terms.begin(), extent.terms.end(), is_known)) return false;
      if (!extent.is_constant() && extent.of(here) != mine[i]) return false;
    }
    return true;
  };
  // Something may be left out that is kept from an earlier pass (a table of positions).
  while (pass_.remembered && pass_.answered < pass_.remembered->answers.size()) {
    auto& answer = pass_.remembered->answers[pass_.answered++];
    if (!fits(answer)) continue;
    agree_on_constants(op, answer, mine);
    return answer.numbers;
  }
  pass_.remembered = nullptr;  // another way than the first pass: from here on numbers are what they are
  pass_.path.is_unsteady = true;
  Answer constants{&op.handle.schema(), std::vector<Extent>(mine.size())};
  agree_on_constants(op, constants, mine);
  return constants.numbers;
}

/// A constant that is another one than last time is one still if all ranks have the same. Those where it is
/// not make another call, and are found.
void SequenceEngine::agree_on_constants(const Operator& op, Answer& answer, const std::vector<double>& now) {
  uint64_t values = 0;
  bool is_other = false;
  for (size_t i = 0; i < now.size(); ++i) {
    auto& extent = answer.numbers[i];
    if (!extent.is_constant()) continue;
    const auto bits = std::bit_cast<uint64_t>(now[i]);
    is_other |= bits != std::bit_cast<uint64_t>(extent.more);
    values = hashed_with(values, bits);
    extent.more = now[i];
  }
  if (is_other) vote_.go_on(op.name + " with other numbers than before", static_cast<int64_t>(values));
}

std::optional<SequenceEngine::Arguments> SequenceEngine::with_totals(
    const Operator& op, const std::vector<Number>& numbers, const std::vector<Extent>& extents) const {
  if (is_constant(extents)) return {};
  std::vector<double> totals;
  for (auto& layout : pass_.splits) totals.push_back(static_cast<double>(layout.total()));
  Arguments arguments(op.arguments.begin(), op.arguments.end());
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (extents[i].is_constant()) continue;
    auto& value = arguments[numbers[i].argument];
    value = with_number(value, numbers[i].item, extents[i].of(totals));
  }
  return arguments;
}

/// The numbers that may count something, those that say how many elements there are with them or not. The
/// others are noted.
std::vector<Number> SequenceEngine::noted_numbers(const Operator& op, const OperatorFacts& facts,
                                                  bool extents_too) {
  if (!pass_.is_first && !has_counts(facts, op, extents_too)) return {};
  std::vector<Number> counts;
  for (auto& number : numbers_of(facts, op)) {
    bool may_be_extent = facts.is_extent[number.argument];
    if (!facts.is_real[number.argument] && (extents_too || !may_be_extent))
      counts.push_back(number);
    else if (pass_.is_first)
      pass_.consensus.note(op, number, may_be_extent);
  }
  return counts;
}

/// The arguments with numbers as one rank would have them; none where these are what they are. Those that say
/// how many elements there are stay, unless they are asked for too.
std::optional<SequenceEngine::Arguments> SequenceEngine::as_on_one_rank(const Operator& op,
                                                                        const OperatorFacts& facts,
                                                                        bool extents_too) {
  const auto asked = noted_numbers(op, facts, extents_too);
  if (asked.empty()) return {};
  return with_totals(op, asked, ask(op, asked));
}

Tensors SequenceEngine::on_whole(const Operator& op, const OperatorFacts& facts, const Next& next) {
  const auto asked = noted_numbers(op, facts, true);
  if (asked.empty()) return next(op);
  const auto extents = ask(op, asked);
  auto arguments = with_totals(op, asked, extents);
  if (!arguments) return next(op);
  if (facts.is_random && draws(op))
    refuse(op,
           "draws as many random numbers as there are tokens here; draw them for the whole sequence, and "
           "give them as an argument");

  const auto varies = [](auto& extent) { return !extent.is_constant(); };
  const auto first = std::find_if(extents.begin(), extents.end(), varies) - extents.begin();
  bool is_one = std::count_if(extents.begin(), extents.end(), varies) == 1 && extents[first].is_length() &&
                asked[first].item >= 0;
  if (is_one && facts.fills) {
    const int64_t dim = asked[first].item;
    const auto dims = static_cast<int64_t>(op.arguments[asked[first].argument].toIntVector().size());
    bool has_source = !op.inputs.empty() && !op.name.starts_with("aten::new_");
    const int64_t source_dim = has_source ? dim - (dims - op.inputs[0].dim()) : -1;
    if (source_dim < 0 || op.inputs[0].size(source_dim) == 1) {
      auto outputs = next(meeting_whole(op));
      marked(op, outputs, place_in(pass_.splits[extents[first].terms[0].split], dim));
      if (facts.is_empty) pass_.follow.mark_unwritten(outputs[0]);
      return outputs;
    }
  }
  return next(with_arguments(op, std::move(*arguments)));
}

/// The operator on whole inputs, on every rank, with what it gives whole: right for whatever it does. What it
/// writes to a split tensor is cut again.
Tensors SequenceEngine::unsharded(const Operator& op, const OperatorFacts& facts, const Next& next) {
  pass_.path.reaches_over = true;
  auto arguments = as_on_one_rank(op, facts, true);
  auto whole = arguments ? with_arguments(op, std::move(*arguments)) : op;
  struct Written {
    at::Tensor split, whole;
    SplitPlace place;
  };
  std::vector<Written> written;
  Tensors sources;  // of what one rank would have a view of
  std::vector<size_t> noted;
  for (size_t i = 0; i < whole.inputs.size(); ++i) {
    auto& x = whole.inputs[i];
    auto* found = pass_.follow.of(x);
    if (!found) {
      if (pass_.is_first && x.defined() && !writes_to(facts, op, x)) noted.push_back(i);
      continue;
    }
    const auto place = *found;
    auto all = unsplit(x, place);
    if (writes_to(facts, op, x)) written.push_back({x, all, place});
    if (facts.is_view && !facts.is_mutable) sources.push_back(x);
    x = all;
  }
  whole.compute = [this, noted, name = op.name, compute = whole.compute](const Tensors& inputs) {
    for (auto i : noted) pass_.consensus.note(name, inputs[i]);
    return compute(inputs);
  };
  auto outputs = told(op, [&] { return next(whole); });
  for (auto& one : written) one.split.copy_(share(one.whole, one.place.dim, one.place));
  for (auto& output : outputs) {
    auto same =
        std::find_if(written.begin(), written.end(), [&](auto& w) { return w.whole.is_same(output); });
    if (same != written.end())
      output = same->split;
    else if (facts.is_view)
      pass_.follow.mark_copy(output, sources);
  }
  return outputs;
}

}  // namespace wanpar
