#include "table.hpp"

/// Attention whose queries, keys and masks are not of one shape.
namespace sequence_modules {
namespace broadcasts_cases {
namespace {

Inputs with_companion(int64_t batch, int64_t companion_batch) {
  return [=](Draw& draw, int64_t n) { return Tensors{draw({batch, n, 16}), draw({companion_batch, n, 16})}; };
}

}  // namespace
}  // namespace broadcasts_cases

void broadcasts(Table& table) {
  using namespace broadcasts_cases;
  table.kind("broadcast");
  table.add(
      "mqa_broadcast", exact,
      [](const Tensor& x) {
        auto k = x.slice(-1, 0, 4).unsqueeze(1);
        return merge(sdpa(heads(x), k, k));
      },
      tokens());
  table.add(
      "mqa_expanded", exact,
      [](const Tensor& x) {
        auto k = x.slice(-1, 0, 4).unsqueeze(1).expand({x.size(0), 4, x.size(1), 4});
        return merge(sdpa(heads(x), k, k));
      },
      tokens());
  table.add(
      "mqa_enable_gqa", exact,
      [](const Tensor& x) {
        auto k = x.slice(-1, 0, 4).unsqueeze(1);
        return merge(sdpa(heads(x), k, k, {}, false, true));
      },
      tokens());
  table.add(
      "gqa_enable", exact,
      [](const Tensor& x) {
        auto k = heads(x.slice(-1, 0, 8), 2), v = heads(x.slice(-1, 8), 2);
        return merge(sdpa(heads(x), k, v, {}, true, true));
      },
      tokens());
  table.add(
      "gqa_repeat_interleave", exact,
      [](const Tensor& x) {
        auto k = heads(x.slice(-1, 0, 8), 2).repeat_interleave(2, 1);
        return merge(sdpa(heads(x), k, k));
      },
      tokens());
  table.add(
      "gqa_broadcast_5d", exact,
      [](const Tensor& x) {
        auto q = heads(x).unflatten(1, {2, 2}), k = heads(x.slice(-1, 0, 8), 2).unsqueeze(2);
        return merge(sdpa(q, k, k).flatten(1, 2));
      },
      tokens());
  table.add(
      "attention_5d_whole_heads", exact,
      [](const Tensor& x) {
        auto q = heads(x).unsqueeze(0);
        return merge(sdpa(q, q, q).squeeze(0));
      },
      tokens());
  table.add(
      "attention_5d_masked", exact,
      [](const Tensor& x, const Tensor& mask) {
        auto q = heads(x).unflatten(1, {2, 2});
        return merge(sdpa(q, q, q, mask).flatten(1, 2));
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({n, n})};
      });
  table.add(
      "attention_3d", exact, [](const Tensor& x) { return x + at::scaled_dot_product_attention(x, x, x); },
      tokens());
  table.add(
      "attention_2d", either,
      [](const Tensor& x) { return at::scaled_dot_product_attention(x[0], x[0], x[0]).unsqueeze(0); },
      one_sample());
  table
      .add(
          "query_batch_broadcast", exact,
          [](const Tensor& x, const Tensor& a) { return x + merge(sdpa(heads(a), heads(x), heads(x))); },
          with_companion(2, 1))
      .at({{0, 1}, {1, 1}});
  table
      .add(
          "kv_batch_broadcast", exact,
          [](const Tensor& x, const Tensor& a) { return x + merge(sdpa(heads(x), heads(a), heads(a))); },
          with_companion(3, 1))
      .at({{0, 1}, {1, 1}});
  table.add(
      "kv_batch_broadcast_whole", exact,
      [](const Tensor& x, const Tensor& a) { return attend(x + merge(sdpa(heads(x), heads(a), heads(a)))); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({3, n, 16}), draw({1, 5, 16})};
      });
  table.add(
      "query_head_broadcast", exact,
      [](const Tensor& x) { return merge(sdpa(x.slice(-1, 0, 4).unsqueeze(1), heads(x), heads(x))); },
      tokens());
  table.add(
      "value_head_broadcast", exact,
      [](const Tensor& x) { return merge(sdpa(heads(x), heads(x), x.slice(-1, 0, 4).unsqueeze(1))); },
      tokens());
  table.add(
      "value_wider", exact,
      [](const Tensor& x) {
        auto v = x.unsqueeze(1).expand({x.size(0), 4, x.size(1), 16});
        return sdpa(heads(x), heads(x), v).mean(1);
      },
      tokens());
  table.add(
      "value_narrower", exact,
      [](const Tensor& x) {
        return merge(sdpa(heads(x), heads(x), heads(x.slice(-1, 0, 4)))).repeat({1, 1, 4});
      },
      tokens());
  table.add(
      "odd_heads", exact,
      [](const Tensor& x) {
        auto h = heads(x.slice(-1, 0, 15), 5);
        return merge(sdpa(h, h, h));
      },
      tokens());
  table.add(
      "one_head", exact,
      [](const Tensor& x) {
        auto h = heads(x, 1);
        return merge(sdpa(h, h, h));
      },
      tokens());
  table.add(
      "head_width_one", exact,
      [](const Tensor& x) {
        auto h = heads(x, 16);
        return merge(sdpa(h, h, h));
      },
      tokens());
  table.add(
      "differential_attention", exact,
      [](const Tensor& x) {
        // two maps over halves of the heads, one subtracted from the other
        auto h = heads(x).chunk(2, 1);
        auto v = x.unsqueeze(1).expand({x.size(0), 2, x.size(1), 16});
        auto y = sdpa(h[0], h[0], v) - 0.5 * sdpa(h[1], h[1], v);
        return y.sum(1);
      },
      tokens());
  table.add(
      "multi_latent_attention", exact,
      [](const Tensor& x, const Tensor& down, const Tensor& up) {
        // DeepSeek: keys and values of a narrow latent
        auto kv = at::linear(at::linear(x, down), up).chunk(2, -1);
        return merge(sdpa(heads(x), heads(kv[0]), heads(kv[1]), {}, true));
      },
      tokens({{6, 16}, {32, 6}}));
  table.add(
      "other_scale", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        return merge(at::scaled_dot_product_attention(h, h, h, {}, 0.0, false, 0.1));
      },
      tokens());
  table.add(
      "two_attentions_added", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        return merge(sdpa(h, h, h)) + merge(sdpa(h, h, h, {}, true));
      },
      tokens());
  table
      .add(
          "causal_balanced", exact, [](const Tensor& x) { return attend(attend(x, {}, true), {}, true); },
          tokens())
      .balanced();
  table
      .add(
          "masked_balanced", exact, [](const Tensor& x, const Tensor& mask) { return attend(x, mask); },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({n, n})};
          })
      .balanced();
  table
      .add(
          "conv_balanced", exact,
          [](const Tensor& x, const Tensor& w) {
            return attend(at::conv1d(x.transpose(1, 2), w, {}, 1, 1).transpose(1, 2), {}, true);
          },
          tokens({{16, 16, 3}}))
      .balanced();
  table
      .add(
          "own_positions_balanced", exact,
          [](const Tensor& x) {
            return attend(x + at::arange(x.size(1), x.options()).unsqueeze(-1), {}, true);
          },
          tokens())
      .balanced();
  table
      .add(
          "own_mask_balanced", exact,
          [](const Tensor& x) {
            return attend(x, at::ones({x.size(1), x.size(1)}, at::kBool).tril());
          },
          tokens())
      .balanced();
  table.add(
      "keys_whole_per_sample", exact,
      [](const Tensor& x, const Tensor& text) {
        return attend(x + merge(sdpa(heads(x), heads(text), heads(text))));
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 1, 16})};
      });
  table.add(
      "keys_whole_and_no_other_attention", exact,
      [](const Tensor& x, const Tensor& text) { return x + merge(sdpa(heads(x), heads(text), heads(text))); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 5, 16})};
      });
  table.add(
      "keys_whole_masked", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& mask) {
        return attend(x + merge(sdpa(heads(x), heads(text), heads(text), mask.unsqueeze(1).unsqueeze(1))));
      },
      [](Draw& draw, int64_t n) {
        auto mask = at::ones({2, 5}, at::kBool);
        mask.select(0, 1).slice(0, 3).fill_(false);
        return Tensors{draw({2, n, 16}), draw({2, 5, 16}), mask};
      });
  table.add(
      "queries_whole_keys_split", exact,
      [](const Tensor& x, const Tensor& text) { return merge(sdpa(heads(text), heads(x), heads(x))); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 3, 16})};
      });
  table.add(
      "half_width_bfloat", exact,
      [](const Tensor& x) { return x + 0 * attend(x.to(at::kBFloat16)).to(x.scalar_type()); }, tokens());
}

}  // namespace sequence_modules
