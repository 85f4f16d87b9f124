#include "strategy/ulysses.hpp"

#include <ATen/ATen.h>

#include <numeric>

namespace wanpar {
namespace {

/// Cuts a flat tensor into views, one behind the other.
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

int64_t sum(std::span<const int64_t> values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

/// [batch, tokens, heads, channels] in memory, seen as [batch, heads, tokens, channels]: what modules flatten
/// next.
at::Tensor tokens_first(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::empty({shape[0], shape[2], shape[1], shape[3]}, options).transpose(1, 2);
}

}  // namespace

at::Tensor ulysses_attention(const Communicator& group, Attention call, std::span<const int64_t> lengths,
                             const std::function<at::Tensor(Attention)>& attend) {
  int n = group.size(), rank = group.rank();
  bool shared_heads_divide = call.grouped && call.query.size(1) % n == 0 && call.key.size(1) % n == 0;
  if (call.grouped && !shared_heads_divide) repeat_heads(call);

  auto batch = call.query.size(0), own_length = lengths[rank];
  at::Tensor* inputs[] = {&call.query, &call.key, &call.value};
  std::vector<int64_t> heads[3];
  for (int i = 0; i < 3; ++i) heads[i] = even_sizes(inputs[i]->size(1), n);

  // One exchange for queries, keys and values: for each rank its heads of the three, one behind the other.
  std::vector<int64_t> send(n, 0), receive(n, 0);
  for (int i = 0; i < 3; ++i)
    for (int r = 0; r < n; ++r) {
      send[r] += batch * heads[i][r] * own_length * inputs[i]->size(3);
      receive[r] += batch * heads[i][rank] * lengths[r] * inputs[i]->size(3);
    }
  auto flat = at::empty({sum(send)}, call.query.options());
  {
    Reader room(flat);
    std::vector<int64_t> first(3, 0);
    for (int r = 0; r < n; ++r)
      for (int i = 0; i < 3; ++i) {
        room.next({batch, heads[i][r], own_length, inputs[i]->size(3)})
            .copy_(inputs[i]->narrow(1, first[i], heads[i][r]));
        first[i] += heads[i][r];
      }
  }
  Reader came(group.all_to_all_packed(std::move(flat), send, receive).get());
  std::vector<at::Tensor> parts[3];
  for (int r = 0; r < n; ++r)
    for (int i = 0; i < 3; ++i)
      parts[i].push_back(came.next({batch, heads[i][rank], lengths[r], inputs[i]->size(3)}));
  for (int i = 0; i < 3; ++i) *inputs[i] = at::cat(parts[i], 2);

  auto query_heads = heads[0];
  if (call.mask && call.mask->dim() >= 3 && call.mask->size(-3) > 1)
    call.mask = call.mask->narrow(-3, sum(std::span(query_heads).first(rank)), query_heads[rank]);
  auto channels = call.value.size(3);
  auto out = attend(std::move(call));

  // And back: for each rank its tokens of my heads.
  std::vector<int64_t> back(n), home(n);
  for (int r = 0; r < n; ++r) {
    back[r] = batch * query_heads[rank] * lengths[r] * channels;
    home[r] = batch * query_heads[r] * own_length * channels;
  }
  auto packed = at::empty({sum(back)}, out.options());
  Reader room(packed);
  int64_t from = 0;
  for (int r = 0; r < n; ++r) {
    room.next({batch, query_heads[rank], lengths[r], channels}).copy_(out.narrow(2, from, lengths[r]));
    from += lengths[r];
  }
  Reader mine(group.all_to_all_packed(std::move(packed), back, home).get());
  auto result = tokens_first({batch, sum(query_heads), own_length, channels}, out.options());
  int64_t head = 0;
  for (int r = 0; r < n; ++r) {
    result.narrow(1, head, query_heads[r]).copy_(mine.next({batch, query_heads[r], own_length, channels}));
    head += query_heads[r];
  }
  return result;
}

}  // namespace wanpar
