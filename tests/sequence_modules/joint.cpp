#include "table.hpp"

/// Attention over more than the tokens that are split: text, class tokens, registers, learned queries.
namespace sequence_modules {
namespace joint_cases {
namespace {

Inputs with_text(int64_t words, std::vector<Shape> weights = {}) {
  return [=](Draw& draw, int64_t n) {
    Tensors all{draw({2, n, kWidth}), draw({2, words, kWidth})};
    for (auto& shape : weights) all.push_back(draw.weight(shape));
    return all;
  };
}

/// Text before image in one attention, then the two apart again.
std::pair<Tensor, Tensor> joint_attention(const Tensor& text, const Tensor& image) {
  auto all = at::cat({heads(text), heads(image)}, 2);
  auto y = merge(sdpa(all, all, all));
  return {y.slice(1, 0, text.size(1)), y.slice(1, text.size(1))};
}

}  // namespace
}  // namespace joint_cases

void joint(Table& table) {
  using namespace joint_cases;
  table.kind("joint");
  table.add(
      "flux_double_block", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& wx, const Tensor& wt) {
        auto [t, y] = joint_attention(at::linear(unit_norm(text), wt), at::linear(unit_norm(x), wx));
        return x + at::gelu(y + t.mean(1, true));
      },
      with_text(5, {{16, 16}, {16, 16}}));
  table.add(
      "sd3_joint_image_first", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& w) {
        auto xs = at::linear(unit_norm(x), w);
        auto q = at::cat({heads(xs), heads(text)}, 2);
        auto y = merge(sdpa(q, q, q)).split_with_sizes({x.size(1), text.size(1)}, 1);
        return x + y[0];
      },
      with_text(5, {{16, 16}}));
  table.add(
      "sd3_text_kept", exact,
      [](const Tensor& x, const Tensor& text) {
        // two blocks: the second sees what the first made of the text
        auto [t, y] = joint_attention(text, x);
        auto [t2, y2] = joint_attention(t + text, y + x);
        return y2 + t2.narrow(1, 0, 1);
      },
      with_text(3));
  table
      .add(
          "joint_split_text_too", exact,
          [](const Tensor& x, const Tensor& text) {
            auto q = heads(at::cat({text, x}, 1));
            return merge(sdpa(q, q, q)).slice(1, text.size(1)) + x;
          },
          with_text(7))
      .at({{0, 1}, {1, 1}});
  table.add(
      "cogvideox_block", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& qkv) {
        // one norm and one projection for both, a residual for each
        auto all = at::cat({unit_norm(text), unit_norm(x)}, 1);
        auto p = at::linear(all, qkv).chunk(3, -1);
        auto y = merge(sdpa(heads(p[0]), heads(p[1]), heads(p[2])));
        auto t = text + y.slice(1, 0, text.size(1));
        return x + y.slice(1, text.size(1)) + 0.1 * t.sum(1, true);
      },
      with_text(4, {{48, 16}}));
  table.add(
      "hunyuan_single_block", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& w) {
        // image and text in one stream through linear, norm and attention
        auto all = at::cat({x, text}, 1);
        auto y = all + at::linear(attend(unit_norm(all)), w);
        return y.slice(1, 0, x.size(1));
      },
      with_text(6, {{16, 16}}));
  table.add(
      "prefix_keys", exact,
      [](const Tensor& x, const Tensor& prefix) {
        // prefix tuning, IP-Adapter: keys of both, queries of the tokens
        auto k = at::cat({heads(prefix), heads(x)}, 2);
        return x + merge(sdpa(heads(x), k, k));
      },
      with_text(3));
  table.add(
      "prefix_keys_behind", exact,
      [](const Tensor& x, const Tensor& prefix) {
        auto k = at::cat({x, prefix}, 1);
        return x + merge(sdpa(heads(x), heads(k), heads(k)));
      },
      with_text(3));
  table.add(
      "class_token", exact,
      [](const Tensor& x, const Tensor& cls) {
        auto y = at::cat({cls.expand({x.size(0), 1, kWidth}), x}, 1);
        y = y + attend(unit_norm(y));
        return y + attend(unit_norm(y));
      },
      tokens({{1, 1, 16}}));
  table.add(
      "class_token_taken", exact,
      [](const Tensor& x, const Tensor& cls) {
        auto y = at::cat({cls.expand({x.size(0), -1, -1}), x}, 1);
        y = unit_norm(y + attend(unit_norm(y)));
        return y.select(1, 0);
      },
      tokens({{1, 1, 16}}));
  table.add(
      "registers_dropped", exact,
      [](const Tensor& x, const Tensor& cls, const Tensor& registers) {
        // DINOv2: class token, four registers, patches
        auto y = at::cat({cls.expand({2, 1, 16}), registers.expand({2, 4, 16}), x}, 1);
        y = y + attend(y);
        return y.slice(1, 5);
      },
      tokens({{1, 1, 16}, {1, 4, 16}}));
  table.add(
      "learned_queries", exact,
      [](const Tensor& x, const Tensor& queries, const Tensor& w) {
        // Perceiver, Q-Former: the result has as many tokens as there are queries
        auto kv = at::linear(x, w).chunk(2, -1);
        return queries + merge(sdpa(heads(queries.expand({2, 6, 16})), heads(kv[0]), heads(kv[1])));
      },
      tokens({{1, 6, 16}, {32, 16}}));
  table.add(
      "learned_queries_back", exact,
      [](const Tensor& x, const Tensor& queries) {
        auto latents = merge(sdpa(heads(queries.expand({2, 6, 16})), heads(x), heads(x)));
        latents = latents + attend(latents);
        return x + merge(sdpa(heads(x), heads(latents), heads(latents)));
      },
      tokens({{1, 6, 16}}));
  table.add(
      "perceiver_resampler", exact,
      [](const Tensor& x, const Tensor& queries) {
        auto q = queries.expand({2, 3, 16});
        auto kv = at::cat({x, q}, 1);
        return merge(sdpa(heads(q), heads(kv), heads(kv)));
      },
      tokens({{1, 3, 16}}));
  table
      .add(
          "two_streams_cross", exact,
          [](const Tensor& x, const Tensor& y) {
            auto a = x + merge(sdpa(heads(x), heads(y), heads(y)));
            auto b = y + merge(sdpa(heads(y), heads(x), heads(x)));
            return a + merge(sdpa(heads(a), heads(b), heads(b)));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, 3 * n - 1, 16})};
          })
      .at({{0, 1}, {1, 1}})
      .of({37, 16, 8, 5, 3, 2, 1});
  table
      .add(
          "two_streams_added", exact,
          [](const Tensor& x, const Tensor& y) { return x + y.slice(1, 0, x.size(1)); },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, n + 2, 16})};
          })
      .at({{0, 1}, {1, 1}});
  table
      .add(
          "two_streams_same_length", exact,
          [](const Tensor& x, const Tensor& y) { return attend(x * at::sigmoid(y)) + attend(y); },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, n, 16})};
          })
      .at({{0, 1}, {1, 1}});
  table.add(
      "text_whole_cross", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& w) {
        auto kv = at::linear(text, w).chunk(2, -1);
        return attend(x + merge(sdpa(heads(x), heads(kv[0]), heads(kv[1]))));
      },
      with_text(5, {{32, 16}}));
  table.add(
      "ip_adapter_two_crosses", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& w) {
        auto image = at::linear(text.mean(1, true), w).unflatten(-1, {2, 16}).squeeze(1);
        auto y = merge(sdpa(heads(x), heads(text), heads(text)));
        return x + y + 0.5 * merge(sdpa(heads(x), heads(image), heads(image)));
      },
      with_text(5, {{32, 16}}));
  table.add(
      "text_conditions_norm", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& w) {
        auto steer = at::linear(text.mean(1), w).chunk(2, -1);
        return attend(unit_norm(x) * (1 + steer[0].unsqueeze(1)) + steer[1].unsqueeze(1));
      },
      with_text(5, {{32, 16}}));
  table.add(
      "cfg_two_halves", exact,
      [](const Tensor& x) {
        auto both = at::cat({x, x * 0.5}, 0);
        auto y = attend(both).chunk(2, 0);
        return y[1] + 3 * (y[0] - y[1]);
      },
      tokens());
  table.add(
      "sliding_kv_by_roll", exact,
      [](const Tensor& x) { return merge(sdpa(heads(x), heads(x.roll(1, 1)), heads(x.roll(1, 1)))); },
      tokens());
}

}  // namespace sequence_modules
