#include "strategy/split/ulysses.hpp"

#include <ATen/ATen.h>

#include <span>

#include <wanpar/extend/module/linear_map.hpp>
#include "core/arguments.hpp"
#include "module/attention_parts.hpp"

namespace wanpar {
namespace {

using Tensors = std::vector<at::Tensor>;
using Sizes = std::vector<int64_t>;

/// Splits a flat tensor into consecutive views.
class Reader {
 public:
  explicit Reader(at::Tensor flat) : flat_(std::move(flat)) {}
  at::Tensor next(at::IntArrayRef shape) {
    auto n = c10::multiply_integers(shape);
    at_ += n;
    return flat_.narrow(0, at_ - n, n).view(shape);
  }

 private:
  at::Tensor flat_;
  int64_t at_ = 0;
};

/// [batch, heads, tokens, channels] with memory order [batch, tokens, heads, channels], which modules flatten
/// next.
at::Tensor tokens_first(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::empty({shape[0], shape[2], shape[1], shape[3]}, options).transpose(1, 2);
}

/// The all-to-all between tokens and heads, for several tensors [batch, heads, tokens, channels] at once. The
/// two directions are inverse to each other and, being permutations, adjoint.
class Trade {
 public:
  /// `heads` are the global numbers of heads of the tensors.
  Trade(const Communicator& group, Sizes lengths, const Sizes& heads)
      : group_(group), lengths_(std::move(lengths)) {
    for (auto n : heads) heads_.push_back(even_sizes(n, group.size()));
  }

  /// From all heads of my tokens to my heads of all tokens.
  Tensors to_heads(Tensors x) const {
    auto mine = lengths_[rank()];
    auto sent = [&](size_t i, int r) { return shape(x[i], heads_[i][r], mine); };
    auto received = [&](size_t i, int r) { return shape(x[i], heads_[i][rank()], lengths_[r]); };
    auto flat = packed(x, sent, 1);
    Reader came(exchange(std::move(flat), x, sent, received));
    std::vector<Tensors> parts(x.size());
    for (int r = 0; r < group_.size(); ++r)
      for (size_t i = 0; i < x.size(); ++i) parts[i].push_back(came.next(received(i, r)));
    for (size_t i = 0; i < x.size(); ++i) x[i] = at::cat(parts[i], 2);
    return x;
  }

  /// From my heads of all tokens to all heads of my tokens.
  Tensors to_tokens(Tensors x) const {
    auto mine = lengths_[rank()];
    auto sent = [&](size_t i, int r) { return shape(x[i], heads_[i][rank()], lengths_[r]); };
    auto received = [&](size_t i, int r) { return shape(x[i], heads_[i][r], mine); };
    auto flat = packed(x, sent, 2);
    Reader came(exchange(std::move(flat), x, sent, received));
    Tensors results;
    for (size_t i = 0; i < x.size(); ++i)
      results.push_back(tokens_first(shape(x[i], total(heads_[i]), mine), x[i].options()));
    Sizes head(x.size(), 0);
    for (int r = 0; r < group_.size(); ++r)
      for (size_t i = 0; i < x.size(); ++i) {
        results[i].narrow(1, head[i], heads_[i][r]).copy_(came.next(received(i, r)));
        head[i] += heads_[i][r];
      }
    return results;
  }

  const Sizes& heads(size_t i) const { return heads_[i]; }

 private:
  int rank() const { return group_.rank(); }

  static Sizes shape(const at::Tensor& x, int64_t heads, int64_t tokens) {
    return {x.size(0), heads, tokens, x.size(3)};
  }

  /// For each rank, its pieces of all tensors, split along dim.
  template <class Shape>
  Tensors::value_type packed(const Tensors& x, const Shape& sent, int64_t dim) const {
    int64_t total = 0;
    for (auto& one : x) total += one.numel();
    auto flat = at::empty({total}, x[0].options());
    Reader room(flat);
    Sizes from(x.size(), 0);
    for (int r = 0; r < group_.size(); ++r)
      for (size_t i = 0; i < x.size(); ++i) {
        auto piece = sent(i, r);
        room.next(piece).copy_(x[i].narrow(dim, from[i], piece[dim]));
        from[i] += piece[dim];
      }
    return flat;
  }

  template <class Shape, class OtherShape>
  at::Tensor exchange(at::Tensor flat, const Tensors& x, const Shape& sent,
                      const OtherShape& received) const {
    Sizes send(group_.size(), 0), receive(group_.size(), 0);
    for (int r = 0; r < group_.size(); ++r)
      for (size_t i = 0; i < x.size(); ++i) {
        send[r] += c10::multiply_integers(sent(i, r));
        receive[r] += c10::multiply_integers(received(i, r));
      }
    return group_.all_to_all_packed(std::move(flat), send, receive).get();
  }

  Communicator group_;
  Sizes lengths_;
  std::vector<Sizes> heads_;  // by tensor and rank
};

/// The call is prepared, and has one batch dimension.
at::Tensor traded(const Communicator& group, Attention call, const std::vector<int64_t>& lengths,
                  const std::function<at::Tensor(Attention)>& attend) {
  bool shared_heads_divide =
      call.grouped && call.query.size(1) % group.size() == 0 && call.key.size(1) % group.size() == 0;
  if (call.grouped && !shared_heads_divide) repeat_heads(call);

  Trade in(group, lengths, {call.query.size(1), call.key.size(1), call.value.size(1)});
  auto traded = linear_map(
      Tensors{call.query, call.key, call.value}, [in](Tensors x) { return in.to_heads(std::move(x)); },
      [in](Tensors x) { return in.to_tokens(std::move(x)); });
  call.query = traded[0], call.key = traded[1], call.value = traded[2];

  auto& heads = in.heads(0);
  if (call.mask && call.mask->size(-3) > 1)
    call.mask = call.mask->narrow(-3, total(std::span(heads).first(group.rank())), heads[group.rank()]);
  auto out = attend(std::move(call));

  Trade back(group, lengths, {total(heads)});
  return linear_map(
      Tensors{std::move(out)}, [back](Tensors x) { return back.to_tokens(std::move(x)); },
      [back](Tensors x) { return back.to_heads(std::move(x)); })[0];
}

}  // namespace

at::Tensor ulysses_attention(const Communicator& group, Attention call, const std::vector<int64_t>& lengths,
                             const std::function<at::Tensor(Attention)>& attend) {
  call = prepared(std::move(call));
  auto shape = call.query.sizes().vec();
  call = with_one_batch(std::move(call));
  auto out = group.size() == 1 ? attend(std::move(call)) : traded(group, std::move(call), lengths, attend);
  shape.back() = out.size(-1);
  return out.sizes() == shape ? out : out.reshape(shape);
}

}  // namespace wanpar
