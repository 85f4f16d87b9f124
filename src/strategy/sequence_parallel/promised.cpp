// Attention that a module writes out: recognised by its first product, carried as one attention by its last.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <wanpar/core/error.hpp>

#include "strategy/sequence_parallel/sequence_engine.hpp"

namespace wanpar {
namespace {

bool is_product(const Operator& op) { return op.name == "aten::bmm" || op.name == "aten::matmul"; }

bool is_reshape(const Operator& op) {
  static const std::unordered_set<std::string> names{"aten::view",    "aten::reshape",   "aten::unflatten",
                                                     "aten::flatten", "aten::unsqueeze", "aten::squeeze"};
  return names.contains(op.name);
}

/// What may as well be done later, if anybody asks for it: the weights that LibTorch's MultiheadAttention
/// gives beside its result, mostly for nobody.
bool can_wait(const Operator& op) {
  static const std::unordered_set<std::string> names{"aten::sum", "aten::mean", "aten::div", "aten::mul"};
  return names.contains(op.name) || is_reshape(op);
}

std::vector<int64_t> leading(at::IntArrayRef sizes) { return sizes.slice(0, sizes.size() - 2).vec(); }

at::Tensor with_leading(const at::Tensor& x, std::vector<int64_t> lead) {
  lead.insert(lead.end(), {x.size(-2), x.size(-1)});
  return x.reshape(lead);
}

/// A mask for scores whose leading dimensions are seen otherwise.
at::Tensor mask_with_leading(const at::Tensor& mask, const std::vector<int64_t>& from,
                             const std::vector<int64_t>& to) {
  if (mask.dim() <= 2) return mask;
  auto lead = leading(mask.sizes());
  if (std::all_of(lead.begin(), lead.end(), [](auto n) { return n == 1; }))
    return mask.reshape({mask.size(-2), mask.size(-1)});
  auto full = from;
  full.insert(full.end(), {mask.size(-2), mask.size(-1)});
  return with_leading(mask.expand(full), to);
}

}  // namespace

/// The first product of an attention: queries with keys of the same split.
std::optional<Tensors> SequenceEngine::promised_scores(const Operator& op) {
  const bool has_bias = op.name == "aten::baddbmm";
  auto &query = op.inputs[has_bias], &keys = op.inputs[has_bias + 1];
  auto *rows = pass_.follow.of(query), *columns = pass_.follow.of(keys);
  bool is_attention = rows && columns && query.dim() >= 3 && query.dim() == keys.dim() &&
                      rows->dim == query.dim() - 2 && columns->dim == keys.dim() - 1 &&
                      rows->split == columns->split && rows->before == columns->before &&
                      rows->after == columns->after && leading(query.sizes()) == leading(keys.sizes());
  if (!is_attention) return {};
  pass_.path.reaches_over = true;
  const auto query_place = *rows;
  auto key = keys.transpose(-2, -1);
  pass_.follow.mark(key, query_place);
  Scores scores{{query, key, {}, {}, 0, false, 1.0, false}};
  at::Tensor bias;
  if (has_bias) {
    const auto beta = op.arguments[3].toScalar().toDouble();
    scores.call.scale = op.arguments[4].toScalar().toDouble();
    if (beta != 0) {
      auto* place = pass_.follow.of(op.inputs[0]);
      bias = (place ? unsplit(op.inputs[0], SplitPlace(*place)) : op.inputs[0]) * beta;
      if (bias.dim() < 2 || !bias.is_floating_point()) return {};
      scores.call.mask = bias;
    }
  }
  auto sizes = leading(query.sizes());
  sizes.insert(sizes.end(), {query.size(-2), keys.size(-1)});
  auto whole = [this, query = query, key, query_place, bias, scale = *scores.call.scale] {
    auto all = at::matmul(unsplit(query, query_place), unsplit(key, query_place).transpose(-2, -1)) * scale;
    return bias.defined() ? all + bias : all;
  };
  return Tensors{pass_.promises.stand_in(sizes, query.options().requires_grad(false), {scores, whole})};
}

Tensors SequenceEngine::on_promised(const Operator& op, const OperatorFacts& facts, const Next& next) {
  auto& promises = pass_.promises;
  size_t at = 0;
  while (!promises.of(op.inputs[at])) ++at;
  const auto stand_in = op.inputs[at];
  const Promise promise = *promises.of(stand_in);
  note_numbers(op, facts);
  if (pass_.is_first)
    for (auto& x : op.inputs)
      if (!promises.of(x) && !pass_.follow.of(x)) pass_.consensus.note(op.name, x);
  const auto others = std::count_if(op.inputs.begin(), op.inputs.end(),
                                    [&](auto& x) { return promises.of(x) && !x.is_same(stand_in); });
  if (others == 0 && promise.scores) {
    auto& scores = *promise.scores;
    if (at == 0 && is_product(op) && scores.is_softmax) {
      auto* value = pass_.follow.of(op.inputs[1]);
      auto* queries = pass_.follow.of(scores.call.query);
      if (value && queries && value->dim == op.inputs[1].dim() - 2 && op.inputs[1].dim() == stand_in.dim()) {
        auto call = scores.call;
        call.value = op.inputs[1];
        const auto arguments = arguments_of(call);
        return attention(call, as_operator(call, arguments), next);
      }
    }
    auto whole = op.inputs;
    for (auto& x : whole)
      if (auto* place = pass_.follow.of(x); place && !x.is_same(stand_in)) x = unsplit(x, SplitPlace(*place));
    if (auto more = extended(scores, op, at, whole)) {
      auto later = [base = promise.whole, here = with_inputs(op, whole), at] {
        auto inputs = here.inputs;
        inputs[at] = base();
        return here.compute(inputs)[0];
      };
      if (facts.is_mutable) {
        promises.renew(stand_in, {more, later});
        return {stand_in};
      }
      return {promises.stand_in(stand_in.sizes(), stand_in.options(), {more, later})};
    }
    if (is_reshape(op)) {
      auto shape = op.compute(op.inputs)[0].sizes().vec();
      const auto n = shape.size();
      bool keeps = n >= 3 && shape[n - 2] == stand_in.size(-2) && shape[n - 1] == stand_in.size(-1);
      if (keeps) {
        auto seen = scores;
        const auto from = leading(stand_in.sizes()), to = leading(shape);
        for (auto* x : {&seen.call.query, &seen.call.key}) {
          auto place = *pass_.follow.of(*x);
          *x = with_leading(*x, to);
          place.dim = x->dim() - 2;
          pass_.follow.mark(*x, place);
        }
        if (seen.call.mask) seen.call.mask = mask_with_leading(*seen.call.mask, from, to);
        auto later = [base = promise.whole, to] { return with_leading(base(), to); };
        return {promises.stand_in(shape, stand_in.options(), {seen, later})};
      }
    }
  }
  bool is_alone = std::all_of(op.inputs.begin(), op.inputs.end(),
                              [&](auto& x) { return x.is_same(stand_in) || x.dim() == 0; });
  if (is_alone && can_wait(op)) {
    auto arguments = as_on_one_rank(op, facts, true);
    auto later = [base = promise.whole, at,
                  here = with_inputs(arguments ? with_arguments(op, std::move(*arguments)) : op, op.inputs)] {
      auto inputs = here.inputs;
      inputs[at] = base();
      return here.compute(inputs)[0];
    };
    auto shape = op.compute(op.inputs)[0];
    return {promises.stand_in(shape.sizes(), shape.options(), {{}, later})};
  }
  if (facts.is_mutable)
    refuse(op,
           "writes into the scores of an attention that is carried as one; make a new tensor, or call "
           "at::scaled_dot_product_attention");
  auto inputs = op.inputs;
  for (auto& x : inputs)
    if (auto* owed = promises.of(x)) x = Promise(*owed).whole();
  return dispatched(with_inputs(op, std::move(inputs)), facts, next);
}

}  // namespace wanpar
