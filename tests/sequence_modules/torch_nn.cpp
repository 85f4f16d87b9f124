#include <torch/nn.h>

#include <cmath>

#include "table.hpp"

/// LibTorch's own attention in C++, and attention that is written out.
namespace sequence_modules {
namespace torch_nn_cases {
namespace {

namespace nn = torch::nn;

/// Any nn module inside a module of one's own, so that weights have names.
template <class Holder, class Forward>
struct WithImpl : nn::Module {
  WithImpl(Holder module, Forward forward) : inner(module), run(forward) { register_module("inner", inner); }
  Holder inner;
  Forward run;
  Tensor forward(Tensor x) { return run(inner, x); }
};

/// The same with one more argument.
template <class Holder, class Forward>
struct WithTwoImpl : nn::Module {
  WithTwoImpl(Holder module, Forward forward) : inner(module), run(forward) {
    register_module("inner", inner);
  }
  Holder inner;
  Forward run;
  Tensor forward(Tensor x, Tensor y) { return run(inner, x, y); }
};

template <class Make, class Forward>
std::function<Model()> with_two(Make make, Forward forward) {
  return [make, forward] {
    auto inner = make();
    auto made = std::make_shared<WithTwoImpl<decltype(inner), Forward>>(inner, forward);
    made->eval();
    return Model(made);
  };
}

template <class Make, class Forward>
std::function<Model()> with(Make make, Forward forward) {
  return [make, forward] {
    auto inner = make();
    auto made = std::make_shared<WithImpl<decltype(inner), Forward>>(inner, forward);
    made->eval();
    return Model(made);
  };
}

// Tokens first, as LibTorch's C++ modules take them.
Inputs tokens_first() {
  return [](Draw& draw, int64_t n) { return Tensors{draw({n, 2, kWidth})}; };
}

nn::MultiheadAttention multihead() {
  return nn::MultiheadAttention(nn::MultiheadAttentionOptions(kWidth, kHeads).dropout(0));
}
nn::TransformerEncoderLayer encoder_layer() {
  return nn::TransformerEncoderLayer(
      nn::TransformerEncoderLayerOptions(kWidth, kHeads).dim_feedforward(32).dropout(0));
}
nn::TransformerDecoderLayer decoder_layer() {
  return nn::TransformerDecoderLayer(
      nn::TransformerDecoderLayerOptions(kWidth, kHeads).dim_feedforward(32).dropout(0));
}
nn::Transformer transformer() {
  return nn::Transformer(nn::TransformerOptions(kWidth, kHeads, 1, 1).dim_feedforward(32).dropout(0));
}
Tensor causal(const Tensor& x) { return nn::TransformerImpl::generate_square_subsequent_mask(x.size(0)); }

}  // namespace
}  // namespace torch_nn_cases

void torch_nn(Table& table) {
  using namespace torch_nn_cases;
  const std::vector<SplitInput> first{{0, 0}};
  table.kind("torch_nn");
  table
      .made("nn_multihead", exact,
            with(multihead, [](auto& m, Tensor x) { return x + std::get<0>(m(x, x, x)); }), tokens_first())
      .at(first);
  table
      .made("nn_multihead_no_weights", exact,
            with(multihead,
                 [](auto& m, Tensor x) {
                   return x + std::get<0>(m(x, x, x, /*key_padding_mask=*/Tensor(), false));
                 }),
            tokens_first())
      .at(first);
  table.made("nn_multihead_batch_first", exact,
             with(multihead,
                  [](auto& m, Tensor x) {
                    auto y = x.transpose(0, 1);
                    return x + std::get<0>(m(y, y, y)).transpose(0, 1);
                  }),
             tokens());
  table
      .made("nn_multihead_own_causal_mask", exact,
            with(multihead,
                 [](auto& m, Tensor x) { return std::get<0>(m(x, x, x, Tensor(), false, causal(x))); }),
            tokens_first())
      .at(first);
  table
      .made("nn_multihead_cross", exact,
            with_two(multihead,
                     [](auto& m, Tensor x, Tensor text) { return x + std::get<0>(m(x, text, text)); }),
            [](Draw& draw, int64_t n) {
              return Tensors{draw({n, 2, kWidth}), draw({5, 2, kWidth})};
            })
      .at(first);
  table
      .made("nn_multihead_key_padding", exact,
            with_two(multihead,
                     [](auto& m, Tensor x, Tensor padding) { return x + std::get<0>(m(x, x, x, padding)); }),
            [](Draw& draw, int64_t n) {
              auto padding = at::zeros({2, n}, at::kBool);
              padding.slice(1, n - n / 3).fill_(true);
              return Tensors{draw({n, 2, kWidth}), padding};
            })
      .at({{0, 0}, {1, 1}});
  table
      .made("nn_encoder_layer", exact, with(encoder_layer, [](auto& m, Tensor x) { return m(x); }),
            tokens_first())
      .at(first);
  table
      .made("nn_encoder_layer_masked", exact,
            with(encoder_layer, [](auto& m, Tensor x) { return m(x, causal(x)); }), tokens_first())
      .at(first);
  table
      .made("nn_encoder", exact,
            with([] { return nn::TransformerEncoder(nn::TransformerEncoderOptions(encoder_layer(), 2)); },
                 [](auto& m, Tensor x) { return m(x); }),
            tokens_first())
      .at(first);
  table
      .made("nn_decoder_layer", exact, with(decoder_layer, [](auto& m, Tensor x) { return m(x, x * 0.5); }),
            tokens_first())
      .at(first);
  table
      .made("nn_transformer", exact, with(transformer, [](auto& m, Tensor x) { return m(x, x.flip(2)); }),
            tokens_first())
      .at(first);
  table
      .made("nn_transformer_masked", exact,
            with(transformer, [](auto& m, Tensor x) { return m(x, x, causal(x), causal(x)); }),
            tokens_first())
      .at(first);
  table
      .made(
          "nn_encoder_layer_training", refused,
          [] {
            nn::TransformerEncoderLayer m(
                nn::TransformerEncoderLayerOptions(kWidth, kHeads).dim_feedforward(32).dropout(0.3));
            return Model(m);
          },
          tokens_first())
      .at(first);
  table.made(
      "nn_sequential_mlp", exact,
      [] {
        nn::Sequential m(nn::LayerNorm(nn::LayerNormOptions({kWidth})), nn::Linear(kWidth, 32), nn::SiLU(),
                         nn::Linear(32, kWidth));
        return Model(m);
      },
      tokens());

  table.kind("written_out");
  table.add(
      "bmm_softmax_bmm", exact,
      [](const Tensor& x, const Tensor& w) {
        auto p = at::linear(x, w).chunk(3, -1);
        auto scores = at::bmm(p[0], p[1].transpose(1, 2)) / 4;
        return x + at::bmm(at::softmax(scores, -1), p[2]);
      },
      tokens({{48, 16}}));
  table.add(
      "matmul_by_heads", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        auto weights = at::softmax(at::matmul(h, h.transpose(-2, -1)) * 0.5, -1);
        return x + merge(at::matmul(weights, h));
      },
      tokens());
  table.add(
      "baddbmm_attention", exact,
      [](const Tensor& x) {
        // diffusers' get_attention_scores: an empty tensor, beta 0
        auto q = heads(x).flatten(0, 1);
        auto scores = at::baddbmm(at::empty({q.size(0), q.size(1), q.size(1)}, q.options()), q,
                                  q.transpose(-1, -2), 0, 0.5);
        return x + merge(at::bmm(at::softmax(scores, -1), q).unflatten(0, {x.size(0), 4}));
      },
      tokens());
  table.add(
      "einsum_attention", exact,
      [](const Tensor& x) {
        auto h = x.unflatten(-1, {4, 4});
        auto scores = at::einsum("bihd,bjhd->bhij", {h, h}) * 0.5;
        return x + at::einsum("bhij,bjhd->bihd", {at::softmax(scores, -1), h}).flatten(2);
      },
      tokens());
  table
      .add(
          "softmax_in_float", exact,
          [](const Tensor& x) {
            // transformers' eager attention
            auto h = heads(x);
            auto scores = at::matmul(h, h.transpose(2, 3)) * 0.5;
            auto weights = at::softmax(scores, -1, at::kFloat).to(x.scalar_type());
            return merge(at::matmul(weights, h).contiguous());
          },
          tokens())
      .no_gradients();  // a softmax in float is no float64
  table.add(
      "causal_masked_fill", exact,
      [](const Tensor& x) {
        // minGPT: scores filled under a triangle of ones
        auto h = heads(x);
        auto n = x.size(1);
        auto scores = at::matmul(h, h.transpose(-2, -1)) / std::sqrt(4.0);
        scores = scores.masked_fill(at::ones({n, n}, x.options()).tril().eq(0), -INFINITY);
        return merge(at::matmul(at::softmax(scores, -1), h));
      },
      tokens());
  table.add(
      "cosine_attention", exact,
      [](const Tensor& x, const Tensor& scale) {
        // Swin v2: normalized queries and keys, a learned temperature for each head
        auto h = heads(x);
        auto q = h / h.norm(2, -1, true).clamp_min(1e-6);
        auto scores = at::matmul(q, q.transpose(-2, -1)) * scale.exp();
        return merge(at::matmul(scores.softmax(-1), h));
      },
      tokens({{4, 1, 1}}));
  table.add(
      "cosine_sdpa", exact,
      [](const Tensor& x, const Tensor& scale) {
        auto h = heads(x);
        auto q = h / h.norm(2, -1, true).clamp_min(1e-6);
        return merge(sdpa(q * scale.exp(), q, h));
      },
      tokens({{4, 1, 1}}));
  table.add(
      "sigmoid_attention", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        return merge(at::matmul(at::sigmoid(at::matmul(h, h.transpose(-2, -1))), h));
      },
      tokens());
  table.add(
      "talking_heads", exact,
      [](const Tensor& x, const Tensor& mix) {
        auto h = heads(x);
        auto scores = at::einsum("bhij,hg->bgij", {at::matmul(h, h.transpose(-2, -1)), mix});
        return merge(at::matmul(scores.softmax(-1), h));
      },
      tokens({{4, 4}}));
  table.add(
      "attention_weights_returned_mean", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        auto weights = at::matmul(h, h.transpose(-2, -1)).softmax(-1);
        return merge(at::matmul(weights, h)) + weights.mean(1).amax(-1, true);
      },
      tokens());
  table.add(
      "channel_attention_xca", exact,
      [](const Tensor& x) {
        // XCiT, Restormer: channels attend to channels, all sums are over tokens
        auto q = heads(x).transpose(-2, -1);
        auto unit = q / q.norm(2, -1, true);
        auto y = at::matmul(at::matmul(unit, unit.transpose(-2, -1)).softmax(-1), q);
        return x + merge(y.transpose(-2, -1));
      },
      tokens());
}

}  // namespace sequence_modules
