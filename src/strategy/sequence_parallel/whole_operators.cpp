// Operators that run on every rank alike, and the numbers that they are given.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

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

}  // namespace

std::vector<std::vector<double>> SequenceEngine::lengths() const {
  std::vector<std::vector<double>> all;
  for (auto& layout : pass_.splits) {
    auto& of_split = all.emplace_back();
    for (int r = 0; r < layout.size(); ++r) of_split.push_back(static_cast<double>(length(layout.of(r))));
  }
  return all;
}

/// What the numbers are: told by all ranks' together in a first pass, and later by that.
std::vector<Extent> SequenceEngine::ask(const Operator& op, const std::vector<Number>& numbers) {
  std::vector<double> mine;
  for (auto& number : numbers) mine.push_back(number.value);
  if (pass_.is_first) {
    auto rows = together([&] { return fmt::format("{} and its {} numbers", op.name, mine.size()); },
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
    pass_.path.answers.push_back({op.name, extents});
    return extents;
  }
  std::vector<double> here;
  for (auto& layout : pass_.splits) here.push_back(static_cast<double>(length(group_.mine(layout))));
  auto fits = [&](const Answer& answer) {
    if (answer.operator_name != op.name || answer.numbers.size() != mine.size()) return false;
    for (size_t i = 0; i < mine.size(); ++i) {
      auto& extent = answer.numbers[i];
      auto is_known = [&](auto& term) { return term.split < static_cast<int>(here.size()); };
      if (!std::all_of(extent.terms.begin(), extent.terms.end(), is_known)) return false;
      if (!extent.is_constant() && extent.of(here) != mine[i]) return false;
    }
    return true;
  };
  if (pass_.remembered && pass_.answered < pass_.remembered->answers.size()) {
    auto& answer = pass_.remembered->answers[pass_.answered++];
    if (fits(answer)) return answer.numbers;
  }
  pass_.remembered = nullptr;  // another way than the first pass: from here on numbers are what they are
  pass_.path.is_unsteady = true;
  std::vector<Extent> constants;
  for (auto value : mine) constants.push_back({{}, value});
  return constants;
}

std::optional<SequenceEngine::Arguments> SequenceEngine::with_totals(
    const Operator& op, const std::vector<Number>& numbers, const std::vector<Extent>& extents) const {
  if (std::all_of(extents.begin(), extents.end(), [](auto& extent) { return extent.is_constant(); }))
    return {};
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

/// The arguments with numbers as one rank would have them; none where these are what they are. Those that say
/// how many elements there are stay, unless they are asked for too.
std::optional<SequenceEngine::Arguments> SequenceEngine::as_on_one_rank(const Operator& op,
                                                                        const OperatorFacts& facts,
                                                                        bool extents_too) {
  std::vector<Number> asked;
  for (auto& number : numbers_of(facts, op)) {
    bool may_be_extent = facts.is_extent[number.argument];
    if (!facts.is_real[number.argument] && (extents_too || !may_be_extent))
      asked.push_back(number);
    else if (pass_.is_first)
      pass_.consensus.note(op, number, may_be_extent);
  }
  if (asked.empty()) return {};
  return with_totals(op, asked, ask(op, asked));
}

Tensors SequenceEngine::on_whole(const Operator& op, const OperatorFacts& facts, const Next& next) {
  if (facts.numbers.empty()) return next(op);
  std::vector<Number> asked;
  for (auto& number : numbers_of(facts, op)) {
    if (!facts.is_real[number.argument])
      asked.push_back(number);
    else if (pass_.is_first)
      pass_.consensus.note(op, number, false);
  }
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
      pass_.follow.mark(outputs[0], place_in(pass_.splits[extents[first].terms[0].split], dim));
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
  const auto targets = written_by(facts, op);
  auto is_written = [&](const at::Tensor& x) {
    return std::any_of(targets.begin(), targets.end(), [&](auto& target) { return target.is_same(x); });
  };
  Tensors sources;  // of what one rank would have a view of
  std::vector<size_t> noted;
  for (size_t i = 0; i < whole.inputs.size(); ++i) {
    auto& x = whole.inputs[i];
    auto* found = pass_.follow.of(x);
    if (!found) {
      if (pass_.is_first && x.defined() && !is_written(x)) noted.push_back(i);
      continue;
    }
    const auto place = *found;
    auto all = unsplit(x, place);
    if (is_written(x)) written.push_back({x, all, place});
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
