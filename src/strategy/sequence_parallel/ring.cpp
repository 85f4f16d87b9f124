#include "strategy/sequence_parallel/ring.hpp"

#include <ATen/ATen.h>
#include <ATen/core/custom_class.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <optional>
#include <wanpar/module/interceptor.hpp>

#include "module/attention_parts.hpp"
#include "module/linear_map.hpp"

namespace wanpar {
namespace {

using ToCome = std::optional<Pending<std::vector<at::Tensor>>>;

std::vector<int64_t> with_length(const at::Tensor& x, int64_t length) {
  auto shape = x.sizes().vec();
  shape[shape.size() - 2] = length;
  return shape;
}

/// Two tensors [batch, heads, tokens, channels] that travel as one, keys and values or their gradients.
struct Pair {
  at::Tensor key, value;

  at::Tensor packed() const { return at::cat({key.reshape({-1}), value.reshape({-1})}); }

  /// Room for as many tokens as another rank holds, to be received.
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

/// One hop: what I hold goes to the next rank, what the previous one holds comes.
ToCome hop(const Communicator& ring, at::Tensor packed, int64_t coming) {
  int next = (ring.rank() + 1) % ring.size(), previous = (ring.rank() + ring.size() - 1) % ring.size();
  auto options = packed.options();
  std::vector<Send> sends;
  sends.push_back({std::move(packed), next});
  return ring.exchange(std::move(sends), {{{coming}, options, previous}});
}

/// Rows of the queries and columns of the keys at hand that are attended to in one call.
struct Block {
  Range rows, columns;
  bool causal;
};

/// All at once; under a causal mask, each range of queries with each range of keys that it may see.
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

/// The call cut to one block; `mask` holds the columns of the keys at hand.
Attention cut(const Attention& call, const std::optional<at::Tensor>& mask, const Pair& at_hand,
              const Block& block) {
  auto part = call;
  part.query = rows(call.query, block.rows);
  part.key = rows(at_hand.key, block.columns);
  part.value = rows(at_hand.value, block.columns);
  part.causal = block.causal;
  if (mask) {
    part.mask = rows(*mask, block.columns, -1);
    if (mask->dim() >= 2 && mask->size(-2) > 1) part.mask = rows(*part.mask, block.rows, -2);
  }
  return part;
}

/// The result so far, over the keys seen so far.
class Merge {
 public:
  explicit Merge(const Attention& call) {
    auto shape = call.query.sizes().vec();
    auto options = call.query.options().dtype(accumulator(call.query));
    lse_ = at::full({shape[0], shape[1], shape[2], 1}, -std::numeric_limits<double>::infinity(), options);
    shape.back() = call.value.size(-1);
    out_ = at::zeros(shape, options);
  }

  void add(const Range& range, const AttentionWithLse& part) {
    auto out = rows(out_, range), before = rows(lse_, range), lse = part.lse.unsqueeze(-1);
    auto total = at::logaddexp(before, lse);
    // A query that has met no key yet has lse −inf on both sides, and weight 0.
    auto weight = [&](const at::Tensor& one) { return (one - total).exp_().nan_to_num_(0.0); };
    out.mul_(weight(before)).addcmul_(part.out, weight(lse));
    before.copy_(total);
  }

  AttentionWithLse result(at::ScalarType dtype) const { return {out_.to(dtype), lse_.squeeze(-1)}; }

 private:
  at::Tensor out_, lse_;
};

/// One attention over the ring, as backward needs to know it again.
struct RingCall : torch::CustomClassHolder {
  RingCall(const Communicator& group, const Attention& attention, const std::vector<Ranges>& ranges)
      : ring(group), call(attention), held(ranges) {}

  int owner(int step) const { return (ring.rank() + ring.size() - step) % ring.size(); }
  int64_t tokens(int step) const { return length(held[owner(step)]); }
  const Ranges& own() const { return held[ring.rank()]; }
  std::optional<at::Tensor> mask(int step) const {
    if (!call.mask) return {};
    return take(*call.mask, -1, held[owner(step)]);
  }

  Communicator ring;
  Attention call;  // its query, key and value are kept by autograd alone
  std::vector<Ranges> held;
};

AttentionWithLse forward_pass(const RingCall& r, const Attention& call) {
  const Pair own{call.key, call.value};
  auto at_hand = own;
  Merge merge(call);
  for (int step = 0; step < r.ring.size(); ++step) {
    ToCome coming;
    if (step + 1 < r.ring.size())
      coming = hop(r.ring, at_hand.packed(), Pair::numel(own, r.tokens(step + 1)));
    auto mask = r.mask(step);
    for (auto& block : blocks(r.own(), r.held[r.owner(step)], call.causal))
      merge.add(block.rows, attention_with_lse(cut(call, mask, at_hand, block)));
    if (coming) at_hand = Pair::unpacked(coming->get()[0], own, r.tokens(step + 1));
  }
  return merge.result(call.query.scalar_type());
}

/// Gradients of the keys and values travel behind them, and are home after as many hops as there are ranks.
AttentionGradients backward_pass(const RingCall& r, const Attention& call, const AttentionWithLse& whole,
                                 const at::Tensor& gradient) {
  const Pair own{call.key, call.value};
  auto at_hand = own;
  auto type = accumulator(call.query);
  auto d_query = at::zeros(call.query.sizes(), call.query.options().dtype(type));
  ToCome so_far;
  for (int step = 0; step < r.ring.size(); ++step) {
    ToCome coming;
    if (step + 1 < r.ring.size())
      coming = hop(r.ring, at_hand.packed(), Pair::numel(own, r.tokens(step + 1)));

    Pair d{at::zeros(at_hand.key.sizes(), d_query.options()),
           at::zeros(at_hand.value.sizes(), d_query.options())};
    auto mask = r.mask(step);
    for (auto& block : blocks(r.own(), r.held[r.owner(step)], call.causal)) {
      AttentionWithLse result{rows(whole.out, block.rows), rows(whole.lse, block.rows)};
      auto part = attention_backward(cut(call, mask, at_hand, block), result, rows(gradient, block.rows));
      rows(d_query, block.rows).add_(part.query);
      rows(d.key, block.columns).add_(part.key);
      rows(d.value, block.columns).add_(part.value);
    }
    auto packed = d.packed();
    if (so_far) packed.add_(so_far->get()[0]);
    so_far = hop(r.ring, std::move(packed), Pair::numel(own, r.tokens(step + 1)));
    if (coming) at_hand = Pair::unpacked(coming->get()[0], own, r.tokens(step + 1));
  }
  auto d = Pair::unpacked(so_far->get()[0], own, call.key.size(2));
  return {d_query.to(call.query.scalar_type()), d.key.to(call.key.scalar_type()),
          d.value.to(call.value.scalar_type())};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RingAttention : torch::autograd::Function<RingAttention> {
  static at::Tensor forward(AutogradContext* context, const c10::intrusive_ptr<RingCall>& r, at::Tensor query,
                            at::Tensor key, at::Tensor value) {
    Plain plain;
    auto call = r->call;
    call.query = query, call.key = key, call.value = value;
    auto whole = forward_pass(*r, call);
    context->saved_data["call"] = c10::IValue::make_capsule(r);
    context->save_for_backward({query, key, value, whole.out, whole.lse});
    return whole.out;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    refuse_create_graph();
    Plain plain;
    at::NoGradGuard no_grad;
    auto saved = context->get_saved_variables();
    auto held = context->saved_data["call"].toCapsule();
    auto& r = static_cast<RingCall&>(*held);
    auto call = r.call;
    call.query = saved[0], call.key = saved[1], call.value = saved[2];
    auto d = backward_pass(r, call, {saved[3], saved[4]}, gradients[0]);
    return {at::Tensor(), d.query, d.key, d.value};
  }
};

}  // namespace

at::Tensor ring_attention(const Communicator& ring, const Attention& call, const std::vector<Ranges>& held) {
  if (!wants_gradient({call.query, call.key, call.value}))
    return forward_pass(RingCall(ring, call, held), call).out;
  auto kept = call;
  kept.query = kept.key = kept.value = at::Tensor();
  return RingAttention::apply(c10::make_intrusive<RingCall>(ring, kept, held), call.query, call.key,
                              call.value);
}

}  // namespace wanpar
