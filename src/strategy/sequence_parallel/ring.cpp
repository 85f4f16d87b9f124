#include "strategy/sequence_parallel/ring.hpp"

#include <ATen/ATen.h>
#include <ATen/core/custom_class.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <wanpar/extend/module/interceptor.hpp>

#include <wanpar/extend/module/linear_map.hpp>
#include "module/attention_parts.hpp"

namespace wanpar {
namespace {

using ToCome = std::optional<Pending<std::vector<at::Tensor>>>;

std::vector<int64_t> with_length(const at::Tensor& x, int64_t length) {
  auto shape = x.sizes().vec();
  shape[shape.size() - 2] = length;
  return shape;
}

/// Two tensors [batch, heads, tokens, channels] that are sent as one: keys and values, or their gradients.
struct Pair {
  at::Tensor key, value;

  at::Tensor packed() const { return at::cat({key.reshape({-1}), value.reshape({-1})}); }

  /// A buffer to receive another rank's tokens.
  static int64_t numel(const Pair& like, int64_t length) {
    return c10::multiply_integers(with_length(like.key, length)) +
           c10::multiply_integers(with_length(like.value, length));
  }
  static Pair unpacked(const at::Tensor& flat, const Pair& like, int64_t length) {
    auto key_shape = with_length(like.key, length), value_shape = with_length(like.value, length);
    auto keys = c10::multiply_integers(key_shape);
    return {flat.narrow(0, 0, keys).view(key_shape),
            flat.narrow(0, keys, flat.numel() - keys).view(value_shape)};
  }
};

/// One hop of the ring: sends to the next rank, receives from the previous one.
ToCome hop(const Communicator& ring, at::Tensor packed, int64_t coming) {
  int next = (ring.rank() + 1) % ring.size(), previous = (ring.rank() + ring.size() - 1) % ring.size();
  auto options = packed.options();
  std::vector<Send> sends;
  sends.push_back({std::move(packed), next});
  return ring.exchange(std::move(sends), {{{coming}, options, previous}});
}

/// A block of query rows and key columns that one attention call covers.
struct Block {
  Range rows, columns;
  bool causal;
};

/// One block; with a causal mask, one per range of queries and range of keys that it may attend to.
std::vector<Block> blocks(const Ranges& queries, const Ranges& keys, bool causal) {
  if (!causal) return {{{0, length(queries)}, {0, length(keys)}, false}};
  std::vector<Block> result;
  int64_t row = 0;
  for (auto& q : queries) {
    int64_t column = 0;
    for (auto& k : keys) {
      if (k.begin <= q.begin && q.size() > 0 && k.size() > 0)
        result.push_back({{row, row + q.size()}, {column, column + k.size()}, k.begin == q.begin});
      column += k.size();
    }
    row += q.size();
  }
  return result;
}

at::Tensor rows(const at::Tensor& x, const Range& range, int64_t dim = 2) {
  return x.narrow(dim, range.begin, range.size());
}

/// The slice of a mask, or of its gradient, for one block of the keys that start at this column. A single row
/// or column broadcasts.
at::Tensor of_block(const at::Tensor& mask, int64_t column, const Block& block) {
  auto columns =
      mask.size(-1) == 1 ? mask : mask.narrow(-1, column + block.columns.begin, block.columns.size());
  return mask_rows(columns, block.rows.begin, block.rows.size());
}

/// The call, sliced to one block.
Attention slice_call(const Attention& call, int64_t column, const Pair& at_hand, const Block& block) {
  auto part = call;
  part.query = rows(call.query, block.rows);
  part.key = rows(at_hand.key, block.columns);
  part.value = rows(at_hand.value, block.columns);
  part.causal = block.causal;
  if (call.mask) part.mask = of_block(*call.mask, column, block);
  return part;
}

/// A mask with its columns permuted to rank order.
at::Tensor with_columns_by_rank(const at::Tensor& mask, const std::vector<Ranges>& held) {
  Ranges all;
  for (auto& ranges : held) all.insert(all.end(), ranges.begin(), ranges.end());
  auto is_gap = [](const Range& a, const Range& b) { return a.end != b.begin; };
  bool in_order = std::adjacent_find(all.begin(), all.end(), is_gap) == all.end();
  return in_order || mask.size(-1) == 1 ? mask : select_ranges(mask, -1, all);
}

/// The partial result over the keys so far.
class Merge {
 public:
  explicit Merge(const Attention& call) {
    auto shape = call.query.sizes().vec();
    auto options = call.query.options().dtype(accumulator(call.query));
    shape.back() = 1;
    max_ = at::full(shape, -std::numeric_limits<double>::infinity(), options);
    sum_ = at::zeros(shape, options);
    shape.back() = call.value.size(-1);
    weighted_ = at::zeros(shape, options);
  }

  void add(const Range& range, const AttentionPart& part) {
    auto weighted = rows(weighted_, range), max = rows(max_, range), sum = rows(sum_, range);
    auto others = part.max.unsqueeze(-1), greatest = at::maximum(max, others), by = shift(greatest);
    auto before = (max - by).exp_(), now = (others - by).exp_().mul_(part.sum.unsqueeze(-1));
    weighted.mul_(before).addcmul_(part.out, now);
    sum.mul_(before).add_(now);
    max.copy_(greatest);
  }

  AttentionPart result(at::ScalarType dtype) const {
    return {weighted_.div(divisor(sum_)).to(dtype), max_.squeeze(-1), sum_.squeeze(-1)};
  }

 private:
  at::Tensor weighted_, max_, sum_;  // weighted_: the result before division by the sum
};

/// The state of a ring attention that backward needs.
struct RingCall : torch::CustomClassHolder {
  RingCall(const Communicator& group, const Attention& attention, const std::vector<Ranges>& ranges)
      : ring(group), call(attention), held(ranges) {}

  int owner(int step) const { return (ring.rank() + ring.size() - step) % ring.size(); }
  int64_t tokens(int step) const { return length(held[owner(step)]); }
  const Ranges& own() const { return held[ring.rank()]; }
  /// The first mask column of this step's keys.
  int64_t column(int step) const {
    return std::accumulate(held.begin(), held.begin() + owner(step), int64_t{0},
                           [](int64_t n, const Ranges& ranges) { return n + length(ranges); });
  }

  Communicator ring;
  Attention call;  // its tensors are saved by autograd only
  std::vector<Ranges> held;
};

AttentionPart forward_pass(const RingCall& r, const Attention& call) {
  const Pair own{call.key, call.value};
  auto at_hand = own;
  Merge merge(call);
  for (int step = 0; step < r.ring.size(); ++step) {
    ToCome coming;
    if (step + 1 < r.ring.size())
      coming = hop(r.ring, at_hand.packed(), Pair::numel(own, r.tokens(step + 1)));
    for (auto& block : blocks(r.own(), r.held[r.owner(step)], call.causal))
      merge.add(block.rows, attention_part(slice_call(call, r.column(step), at_hand, block)));
    if (coming) at_hand = Pair::unpacked(coming->get()[0], own, r.tokens(step + 1));
  }
  return merge.result(call.query.scalar_type());
}

/// Gradients of keys and values follow them around the ring, and are back at their owner after `size` hops.
AttentionGradients backward_pass(const RingCall& r, const Attention& call, const AttentionPart& whole,
                                 const at::Tensor& gradient, bool of_mask) {
  const Pair own{call.key, call.value};
  auto at_hand = own;
  auto type = accumulator(call.query);
  auto d_query = at::zeros(call.query.sizes(), call.query.options().dtype(type));
  std::optional<at::Tensor> d_mask;
  if (of_mask) d_mask = at::zeros(call.mask->sizes(), d_query.options());
  ToCome so_far;
  for (int step = 0; step < r.ring.size(); ++step) {
    ToCome coming;
    if (step + 1 < r.ring.size())
      coming = hop(r.ring, at_hand.packed(), Pair::numel(own, r.tokens(step + 1)));

    Pair d{at::zeros(at_hand.key.sizes(), d_query.options()),
           at::zeros(at_hand.value.sizes(), d_query.options())};
    const auto column = r.column(step);
    for (auto& block : blocks(r.own(), r.held[r.owner(step)], call.causal)) {
      AttentionPart result{rows(whole.out, block.rows), rows(whole.max, block.rows),
                           rows(whole.sum, block.rows)};
      auto part = attention_backward(slice_call(call, column, at_hand, block), result,
                                     rows(gradient, block.rows), of_mask);
      rows(d_query, block.rows).add_(part.query);
      rows(d.key, block.columns).add_(part.key);
      rows(d.value, block.columns).add_(part.value);
      if (of_mask) of_block(*d_mask, column, block).add_(*part.mask);
    }
    auto packed = d.packed();
    if (so_far) packed.add_(so_far->get()[0]);
    so_far = hop(r.ring, std::move(packed), Pair::numel(own, r.tokens(step + 1)));
    if (coming) at_hand = Pair::unpacked(coming->get()[0], own, r.tokens(step + 1));
  }
  auto d = Pair::unpacked(so_far->get()[0], own, call.key.size(2));
  if (of_mask) d_mask = d_mask->to(call.mask->scalar_type());
  return {d_query.to(call.query.scalar_type()), d.key.to(call.key.scalar_type()),
          d.value.to(call.value.scalar_type()), d_mask};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RingAttention : torch::autograd::Function<RingAttention> {
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<RingCall>& r, at::Tensor query,
                            at::Tensor key, at::Tensor value, std::optional<at::Tensor> mask) {
    NoInterceptGuard no_intercept;
    auto call = r->call;
    call.query = query, call.key = key, call.value = value, call.mask = mask;
    auto whole = forward_pass(*r, call);
    context->saved_data["call"] = c10::IValue::make_capsule(r);
    context->saved_data["of_mask"] = mask && mask->requires_grad();
    auto saved = call.inputs();
    saved.insert(saved.begin(), {whole.out, whole.max, whole.sum});
    context->save_for_backward(std::move(saved));
    return whole.out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    refuse_create_graph();
    NoInterceptGuard no_intercept;
    at::NoGradGuard no_grad;
    auto saved = context->get_saved_variables();
    auto held = context->saved_data["call"].toCapsule();
    auto& r = static_cast<RingCall&>(*held);
    auto call = r.call.on({saved.begin() + 3, saved.end()});
    auto d = backward_pass(r, call, {saved[0], saved[1], saved[2]}, gradients[0],
                           context->saved_data["of_mask"].toBool());
    return {at::Tensor(), d.query, d.key, d.value, d.mask.value_or(at::Tensor())};
  }
};

}  // namespace

at::Tensor ring_attention(const Communicator& ring, Attention call, const std::vector<Ranges>& held) {
  if (call.mask) call.mask = with_columns_by_rank(*call.mask, held);
  if (!wants_gradient(call.inputs())) return forward_pass(RingCall(ring, call, held), call).out;
  auto kept = call.on({{}, {}, {}});
  return RingAttention::apply(c10::make_intrusive<RingCall>(ring, kept, held), call.query, call.key,
                              call.value, call.mask);
}

}  // namespace wanpar
