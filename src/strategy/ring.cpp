#include "strategy/ring.hpp"

#include <ATen/ATen.h>

#include <numeric>
#include <optional>

namespace wanpar {
namespace {

/// Keys and values as one tensor to send, and back.
at::Tensor pack(const at::Tensor& key, const at::Tensor& value) {
  return at::cat({key.reshape({-1}), value.reshape({-1})});
}

std::vector<int64_t> with_length(const at::Tensor& x, int64_t length) {
  auto shape = x.sizes().vec();
  shape[shape.size() - 2] = length;
  return shape;
}

struct Parts {
  at::Tensor key, value;
};

Parts unpack(const at::Tensor& flat, const at::Tensor& key_like, const at::Tensor& value_like,
             int64_t length) {
  auto key_shape = with_length(key_like, length), value_shape = with_length(value_like, length);
  auto keys = c10::multiply_integers(key_shape);
  return {flat.narrow(0, 0, keys).view(key_shape),
          flat.narrow(0, keys, flat.numel() - keys).view(value_shape)};
}

/// The result so far, over the keys seen so far.
class Merge {
 public:
  void add(AttentionWithLse part) {
    auto lse = part.lse.unsqueeze(-1);
    if (!out_.defined()) {
      dtype_ = part.out.scalar_type();
      out_ = part.out.to(lse.scalar_type());
      lse_ = lse;
      return;
    }
    auto total = at::logaddexp(lse_, lse);
    // A query that has met no key yet has lse −inf on both sides, and weight 0.
    auto weight = [&](const at::Tensor& one) { return (one - total).exp_().nan_to_num_(0.0); };
    out_ = at::addcmul(out_ * weight(lse_), part.out, weight(lse));
    lse_ = total;
  }
  at::Tensor result() const { return out_.to(dtype_); }

 private:
  at::ScalarType dtype_{};
  at::Tensor out_, lse_;
};

/// Which of the causal parts of the keys the queries of this rank may see.
enum class Sight { all, up_to_own, none };

Sight sight(bool causal, int queries_of, int keys_of) {
  if (!causal || keys_of < queries_of) return Sight::all;
  return keys_of == queries_of ? Sight::up_to_own : Sight::none;
}

}  // namespace

at::Tensor ring_attention(const Communicator& ring, Attention call, std::span<const int64_t> lengths) {
  int n = ring.size(), rank = ring.rank(), next = (rank + 1) % n, previous = (rank + n - 1) % n;
  auto mask = call.mask;
  bool causal = call.causal;
  auto key_like = call.key, value_like = call.value;
  at::Tensor here;  // the part at hand, packed; my own is packed only to be sent
  Merge merge;

  for (int step = 0; step < n; ++step) {
    int owner = (rank + n - step) % n;
    std::optional<Pending<std::vector<at::Tensor>>> coming;
    if (step + 1 < n) {
      auto length = lengths[(owner + n - 1) % n];
      auto width = c10::multiply_integers(with_length(key_like, length)) +
                   c10::multiply_integers(with_length(value_like, length));
      std::vector<Send> sends;
      sends.push_back({here.defined() ? here : pack(call.key, call.value), next});
      coming.emplace(ring.exchange(std::move(sends), {{{width}, key_like.options(), previous}}));
    }

    auto seen = sight(causal, rank, owner);
    if (seen != Sight::none && (lengths[owner] > 0 || step == 0)) {
      call.causal = seen == Sight::up_to_own;
      auto begin = std::accumulate(lengths.begin(), lengths.begin() + owner, int64_t{0});
      if (mask) call.mask = mask->narrow(-1, begin, lengths[owner]);
      merge.add(attention_with_lse(call));
    }

    if (coming) {
      here = coming->get()[0];
      auto parts = unpack(here, key_like, value_like, lengths[(owner + n - 1) % n]);
      call.key = parts.key, call.value = parts.value;
    }
  }
  return merge.result();
}

}  // namespace wanpar
