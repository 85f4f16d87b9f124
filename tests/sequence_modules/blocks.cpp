#include <torch/nn.h>

#include <cmath>

#include "table.hpp"

/// Whole blocks of well-known transformers, as their authors lay them out.
namespace sequence_modules {
namespace blocks_cases {
namespace {

namespace nn = torch::nn;

Tensor mlp(const Tensor& x, const Tensor& up, const Tensor& down) {
  return at::linear(at::gelu(at::linear(x, up), "tanh"), down);
}
Tensor rms_norm(const Tensor& x) { return x * at::rsqrt(x.square().mean(-1, true) + 1e-6); }
Tensor modulate(const Tensor& x, const Tensor& shift, const Tensor& scale) {
  return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1);
}
Tensor rotate_half(const Tensor& x) {
  auto halves = x.chunk(2, -1);
  return at::cat({-halves[1], halves[0]}, -1);
}
/// Rotary positions made by the caller, [1, 1, n, width of a head].
Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  return x * cos + rotate_half(x) * sin;
}

// timm's Block: one projection for queries, keys and values, unbound from a permuted view.
struct VitBlockImpl : nn::Module {
  VitBlockImpl() {
    norm1 = register_module("norm1", nn::LayerNorm(nn::LayerNormOptions({kWidth})));
    norm2 = register_module("norm2", nn::LayerNorm(nn::LayerNormOptions({kWidth})));
    qkv = register_module("qkv", nn::Linear(kWidth, 3 * kWidth));
    proj = register_module("proj", nn::Linear(kWidth, kWidth));
    mlp = register_module("mlp", nn::Sequential(nn::Linear(kWidth, 32), nn::GELU(), nn::Linear(32, kWidth)));
    gamma = register_parameter("gamma", at::full({kWidth}, 0.5));
  }
  Tensor forward(Tensor x) {
    auto B = x.size(0), N = x.size(1), C = x.size(2);
    auto all = qkv(norm1(x)).reshape({B, N, 3, kHeads, C / kHeads}).permute({2, 0, 3, 1, 4}).unbind(0);
    auto y = at::scaled_dot_product_attention(all[0], all[1], all[2]).transpose(1, 2).reshape({B, N, C});
    x = x + proj(y) * gamma;
    return x + mlp->forward(norm2(x)) * gamma;
  }
  nn::LayerNorm norm1{nullptr}, norm2{nullptr};
  nn::Linear qkv{nullptr}, proj{nullptr};
  nn::Sequential mlp{nullptr};
  Tensor gamma;
};
TORCH_MODULE(VitBlock);

// DiT: the block is steered by a vector of the timestep.
struct DitBlockImpl : nn::Module {
  DitBlockImpl() {
    steer = register_module("steer", nn::Linear(kWidth, 6 * kWidth));
    qkv = register_module("qkv", nn::Linear(kWidth, 3 * kWidth));
    proj = register_module("proj", nn::Linear(kWidth, kWidth));
    fc1 = register_module("fc1", nn::Linear(kWidth, 32));
    fc2 = register_module("fc2", nn::Linear(32, kWidth));
  }
  Tensor forward(Tensor x, Tensor c) {
    auto m = steer(at::silu(c)).chunk(6, 1);
    auto parts = qkv(modulate(unit_norm(x), m[0], m[1])).chunk(3, -1);
    x = x + m[2].unsqueeze(1) * proj(merge(sdpa(heads(parts[0]), heads(parts[1]), heads(parts[2]))));
    return x + m[5].unsqueeze(1) * fc2(at::gelu(fc1(modulate(unit_norm(x), m[3], m[4])), "tanh"));
  }
  nn::Linear steer{nullptr}, qkv{nullptr}, proj{nullptr}, fc1{nullptr}, fc2{nullptr};
};
TORCH_MODULE(DitBlock);

// Wan: RMS norm over all heads' queries, cross attention to the text, six vectors for each timestep.
struct WanBlockImpl : nn::Module {
  WanBlockImpl() {
    for (auto* name : {"q", "k", "v", "o", "cross_q", "cross_k", "cross_v", "cross_o"})
      linears.emplace(name, register_module(name, nn::Linear(kWidth, kWidth)));
    up = register_module("up", nn::Linear(kWidth, 32));
    down = register_module("down", nn::Linear(32, kWidth));
    table = register_parameter("table", at::randn({1, 6, kWidth}) / 4);
  }
  Tensor attention(const std::string& prefix, const Tensor& x, const Tensor& keys) {
    auto q = heads(rms_norm(linears.at(prefix + "q")(x)));
    auto k = heads(rms_norm(linears.at(prefix + "k")(keys))), v = heads(linears.at(prefix + "v")(keys));
    return linears.at(prefix + "o")(merge(sdpa(q, k, v)));
  }
  Tensor forward(Tensor x, Tensor text, Tensor time) {
    auto e = (table + time).chunk(6, 1);
    auto y = unit_norm(x) * (1 + e[1]) + e[0];
    x = x + attention("", y, y) * e[2];
    x = x + attention("cross_", unit_norm(x), text);
    return x + down(at::gelu(up(unit_norm(x) * (1 + e[4]) + e[3]), "tanh")) * e[5];
  }
  std::map<std::string, nn::Linear> linears;
  nn::Linear up{nullptr}, down{nullptr};
  Tensor table;
};
TORCH_MODULE(WanBlock);

template <class Holder>
std::function<Model()> module() {
  return [] {
    Holder made;
    made->eval();
    return Model(made);
  };
}

Tensor gpt_block(const Tensor& x, const Tensor& c_attn, const Tensor& c_proj, const Tensor& up,
                 const Tensor& down) {
  auto parts = at::linear(unit_norm(x), c_attn).split(kWidth, 2);
  auto y = x + at::linear(merge(sdpa(heads(parts[0]), heads(parts[1]), heads(parts[2]), {}, true)), c_proj);
  return y + mlp(unit_norm(y), up, down);
}

Tensor llama_block(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& wq, const Tensor& wkv,
                   const Tensor& gate, const Tensor& down) {
  auto h = rms_norm(x);
  auto kv = at::linear(h, wkv).chunk(2, -1);
  auto q = rotate(heads(at::linear(h, wq)), cos, sin), k = rotate(heads(kv[0], 2), cos, sin),
       v = heads(kv[1], 2);
  // repeat_kv of transformers
  auto repeat = [](const Tensor& t) {
    return t.unsqueeze(2)
        .expand({t.size(0), 2, 2, t.size(2), t.size(3)})
        .reshape({t.size(0), 4, t.size(2), t.size(3)});
  };
  auto y = x + merge(sdpa(q, repeat(k), repeat(v), {}, true));
  auto g = at::linear(rms_norm(y), gate).chunk(2, -1);
  return y + at::linear(at::silu(g[0]) * g[1], down);
}

/// The tokens and the rotary table of the same length, both given to be split.
Inputs with_rotary(std::vector<Shape> weights) {
  return [weights](Draw& draw, int64_t n) {
    auto angles = draw({1, 1, n, 2}).repeat({1, 1, 1, 2});
    Tensors all{draw({2, n, kWidth}), angles.cos(), angles.sin()};
    for (auto& shape : weights) all.push_back(draw.weight(shape));
    return all;
  };
}

}  // namespace
}  // namespace blocks_cases

void blocks(Table& table) {
  using namespace blocks_cases;
  table.kind("block");
  table.made("vit_block", exact, module<VitBlock>(), tokens());
  table.made("dit_block", exact, module<DitBlock>(), [](Draw& draw, int64_t n) {
    return Tensors{draw({2, n, 16}), draw({2, 16})};
  });
  table.made("wan_block", exact, module<WanBlock>(), [](Draw& draw, int64_t n) {
    return Tensors{draw({2, n, 16}), draw({2, 5, 16}), draw({2, 6, 16}) / 4};
  });
  std::vector<Shape> gpt_weights{{48, 16}, {16, 16}, {32, 16}, {16, 32}};
  table.add("gpt_block", exact, gpt_block, tokens(gpt_weights));
  table.add("gpt_block_balanced", exact, gpt_block, tokens(gpt_weights)).balanced();
  table.add("llama_block", exact, llama_block, with_rotary({{16, 16}, {16, 16}, {64, 16}, {16, 32}}))
      .at({{0, 1}, {1, 2}, {2, 2}});
  table.add("llama_block_balanced", exact, llama_block, with_rotary({{16, 16}, {16, 16}, {64, 16}, {16, 32}}))
      .at({{0, 1}, {1, 2}, {2, 2}})
      .balanced();
  table.add(
      "bert_layer", exact,
      [](const Tensor& x, const Tensor& mask, const Tensor& qkv, const Tensor& out, const Tensor& up,
         const Tensor& down) {
        // post-norm, the padding as an additive mask [B, 1, 1, n] given whole
        auto p = at::linear(x, qkv).chunk(3, -1);
        auto y = unit_norm(x + at::linear(merge(sdpa(heads(p[0]), heads(p[1]), heads(p[2]), mask)), out));
        return unit_norm(y + mlp(y, up, down));
      },
      [](Draw& draw, int64_t n) {
        auto padding = at::zeros({2, 1, 1, n});
        padding.slice(3, n - n / 3).fill_(-10000.);
        return Tensors{draw({2, n, 16}),      padding,
                       draw.weight({48, 16}), draw.weight({16, 16}),
                       draw.weight({32, 16}), draw.weight({16, 32})};
      });
  table.add(
      "t5_layer_given_bias", exact,
      [](const Tensor& x, const Tensor& bias, const Tensor& qkv, const Tensor& wi, const Tensor& wo) {
        // T5 does not scale; the bias of relative positions is the caller's
        auto p = at::linear(rms_norm(x), qkv).chunk(3, -1);
        auto a = at::scaled_dot_product_attention(heads(p[0]) * 0.5, heads(p[1]), heads(p[2]), bias, 0.0,
                                                  false, 1.0);
        auto y = x + merge(a);
        auto g = at::linear(rms_norm(y), wi).chunk(2, -1);
        return y + at::linear(at::gelu(g[0]) * g[1], wo);
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({1, 4, n, n}), draw.weight({48, 16}), draw.weight({64, 16}),
                       draw.weight({16, 32})};
      });
  table.add(
      "flux_single_block", exact,
      [](const Tensor& x, const Tensor& temb, const Tensor& steer, const Tensor& in, const Tensor& out) {
        // attention and the MLP side by side, one projection in and one out
        auto m = at::linear(at::silu(temb), steer).chunk(3, -1);
        auto h = at::linear(modulate(unit_norm(x), m[0], m[1]), in);
        auto parts = h.split_with_sizes({16, 16, 16, 32}, -1);
        auto q = heads(rms_norm(parts[0])), k = heads(rms_norm(parts[1])), v = heads(parts[2]);
        auto y = at::cat({merge(sdpa(q, k, v)), at::gelu(parts[3], "tanh")}, 2);
        return x + m[2].unsqueeze(1) * at::linear(y, out);
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 16}), draw.weight({48, 16}), draw.weight({80, 16}),
                       draw.weight({16, 48})};
      });
  table.add(
      "pixart_block", exact,
      [](const Tensor& x, const Tensor& text, const Tensor& time, const Tensor& qkv, const Tensor& kv,
         const Tensor& up, const Tensor& down) {
        auto m = time.view({2, 6, 16}).unbind(1);
        auto p = at::linear(modulate(unit_norm(x), m[0], m[1]), qkv).chunk(3, -1);
        auto y = x + m[2].unsqueeze(1) * merge(sdpa(heads(p[0]), heads(p[1]), heads(p[2])));
        auto c = at::linear(text, kv).chunk(2, -1);
        y = y + merge(sdpa(heads(y), heads(c[0]), heads(c[1])));
        return y + m[5].unsqueeze(1) * mlp(modulate(unit_norm(y), m[3], m[4]), up, down);
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}),      draw({2, 3, 16}),      draw({2, 96}) / 4,
                       draw.weight({48, 16}), draw.weight({32, 16}), draw.weight({32, 16}),
                       draw.weight({16, 32})};
      });
  table.add(
      "swiglu_parallel_block", exact,
      [](const Tensor& x, const Tensor& qkv, const Tensor& gate, const Tensor& down) {
        // GPT-J, PaLM: attention and MLP of the same norm
        auto h = unit_norm(x);
        auto p = at::linear(h, qkv).chunk(3, -1);
        auto g = at::linear(h, gate).chunk(2, -1);
        return x + merge(sdpa(heads(p[0]), heads(p[1]), heads(p[2]), {}, true)) +
               at::linear(at::silu(g[0]) * g[1], down);
      },
      tokens({{48, 16}, {64, 16}, {16, 32}}));
  table.add(
      "dino_layerscale_block", exact,
      [](const Tensor& x, const Tensor& q, const Tensor& kv, const Tensor& gamma) {
        auto h = unit_norm(x);
        auto pair = at::linear(h, kv).unflatten(-1, {2, 4, 4}).permute({2, 0, 3, 1, 4});
        return x + merge(sdpa(heads(at::linear(h, q)), pair[0], pair[1])) * gamma;
      },
      tokens({{16, 16}, {32, 16}, {16}}));
  table.add(
      "conformer_like", exact,
      [](const Tensor& x, const Tensor& up, const Tensor& down, const Tensor& depthwise) {
        auto y = x + 0.5 * mlp(unit_norm(x), up, down);
        y = y + attend(unit_norm(y));
        auto c = at::conv1d(unit_norm(y).transpose(1, 2), depthwise, {}, 1, 1, 1, 16);
        y = y + at::silu(c).transpose(1, 2);
        return unit_norm(y + 0.5 * mlp(unit_norm(y), up, down));
      },
      tokens({{32, 16}, {16, 32}, {16, 1, 3}}));
  table
      .add(
          "encoder_decoder_layer", exact,
          [](const Tensor& x, const Tensor& memory, const Tensor& w) {
            // both sides split, by lengths of their own
            auto y = x + attend(unit_norm(x), {}, true);
            auto m = memory + attend(unit_norm(memory));
            return y + at::linear(merge(sdpa(heads(unit_norm(y)), heads(m), heads(m))), w);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, 2 * n + 1, 16}), draw.weight({16, 16})};
          })
      .at({{0, 1}, {1, 1}});
  table.add(
      "linear_attention_block", exact,
      [](const Tensor& x) {
        // Katharopoulos: sums over the tokens, no softmax
        auto q = at::elu(heads(x)) + 1, v = heads(x);
        auto context = at::matmul(q.transpose(-1, -2), v);
        auto total = at::matmul(q, q.sum(2, true).transpose(-1, -2));
        return merge(at::matmul(q, context) / total);
      },
      tokens());
  table.add(
      "mixer_over_tokens", exact,
      [](const Tensor& x, const Tensor& w) {
        return x + at::linear(unit_norm(x).transpose(1, 2), w).transpose(1, 2);
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({n, n}) / std::sqrt(n)};
      });
}

}  // namespace sequence_modules
