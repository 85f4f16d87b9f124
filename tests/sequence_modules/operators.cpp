#include <torch/nn.h>

#include "table.hpp"

/// Single operators between attentions: most keep tokens apart.
namespace sequence_modules {
namespace operators_cases {
namespace {

/// One operator and an attention behind it.
template <class Run>
auto then_attend(Run run) {
  return [run](const Tensor& x) { return attend(run(x)); };
}
template <class Run>
auto then_attend_with(Run run) {
  return [run](const Tensor& x, const Tensor& w) { return attend(run(x, w)); };
}

/// Routing of every token to the best of three experts, weights [3, 16, 16].
Tensor routes(const Tensor& x, const Tensor& router) { return at::softmax(at::linear(x, router), -1); }

}  // namespace
}  // namespace operators_cases

void operators(Table& table) {
  using namespace operators_cases;
  table.kind("operator");
  // Projections
  table.add("einsum_projection", exact, then_attend_with([](const Tensor& x, const Tensor& w) {
              return at::einsum("bnc,cd->bnd", {x, w});
            }),
            tokens({{16, 16}}));
  table.add(
      "einsum_to_heads", exact,
      [](const Tensor& x, const Tensor& w) {
        // JAX people: a projection straight into heads
        auto h = at::einsum("bnc,chd->bhnd", {x, w});
        return at::einsum("bhnd,chd->bnc", {sdpa(h, h, h), w});
      },
      tokens({{16, 4, 4}}));
  table.add("tensordot_projection", exact,
            then_attend_with([](const Tensor& x, const Tensor& w) { return at::tensordot(x, w, {2}, {0}); }),
            tokens({{16, 16}}));
  table.add("inner_outer", exact,
            then_attend_with([](const Tensor& x, const Tensor& w) { return at::matmul(x, w).matmul(w.t()); }),
            tokens({{16, 4}}));
  table.add("lora", exact, then_attend_with([](const Tensor& x, const Tensor& w) {
              auto down = w.slice(0, 0, 4);
              return at::linear(x, w) + at::linear(at::linear(x, down), down.t()) * 0.1;
            }),
            tokens({{16, 16}}));
  table.add(
      "bilinear", exact,
      [](const Tensor& x, const Tensor& w) { return attend(at::bilinear(x, x * 2, w, {})); },
      tokens({{16, 16, 16}}));
  // Channels picked and placed
  table.add("gather_channels", exact, then_attend([](const Tensor& x) {
              return x.gather(2, at::arange(15, -1, -1).view({1, 1, 16}).expand(x.sizes()));
            }),
            tokens());
  table.add("gather_by_argsort", exact,
            then_attend([](const Tensor& x) { return x.gather(2, x.argsort(int64_t{-1})); }), tokens());
  table.add("scatter_topk", exact, then_attend([](const Tensor& x) {
              auto [values, index] = x.topk(4, -1);
              return at::zeros_like(x).scatter(2, index, values);
            }),
            tokens());
  table.add("scatter_add_channels", exact, then_attend([](const Tensor& x) {
              return at::zeros_like(x).scatter_add(2, (x > 0).to(at::kLong), x);
            }),
            tokens());
  table.add("index_channels", exact, then_attend([](const Tensor& x) {
              return x.index({at::indexing::Slice(), at::indexing::Slice(), at::arange(16).flip(0)});
            }),
            tokens());
  table.add("index_select_channels", exact,
            then_attend([](const Tensor& x) { return x.index_select(2, at::arange(16).roll(3)); }), tokens());
  table
      .add("one_hot_of_argmax", exact,
           then_attend([](const Tensor& x) { return at::one_hot(x.argmax(-1), 16).to(x.scalar_type()); }),
           tokens())
      .no_gradients();
  table.add("take_along_dim", exact, then_attend([](const Tensor& x) {
              return at::take_along_dim(x, x.argsort(int64_t{-1}, true), -1);
            }),
            tokens());
  table.add("sort_channels", exact, then_attend([](const Tensor& x) { return std::get<0>(x.sort(-1)); }),
            tokens());
  table.add("topk_channels_threshold", exact, then_attend([](const Tensor& x) {
              auto least = std::get<0>(x.topk(8, -1)).slice(-1, -1);
              return x.masked_fill(x.lt(least), 0);
            }),
            tokens());
  table.add(
      "tril_over_channels", exact,
      [](const Tensor& x) {
        return attend(x.unflatten(-1, {4, 4}).tril().flatten(-2));
      },
      tokens());
  table.add("fft_over_channels", exact,
            then_attend([](const Tensor& x) { return at::real(at::fft_fft(x, {}, -1)) / 4; }), tokens());
  table.add("rfft_irfft_channels", exact,
            then_attend([](const Tensor& x) { return at::fft_irfft(at::fft_rfft(x), 16); }), tokens());
  table.add("cumsum_channels", exact, then_attend([](const Tensor& x) { return x.cumsum(-1) / 4; }),
            tokens());
  table.add("flip_channels", exact, then_attend([](const Tensor& x) { return x.flip({-1}) + x.roll(2, -1); }),
            tokens());
  table.add("repeat_interleave_channels", exact,
            then_attend([](const Tensor& x) { return x.slice(-1, 0, 8).repeat_interleave(2, -1); }),
            tokens());
  table.add("diff_channels", exact, then_attend([](const Tensor& x) {
              return at::cat({x.diff(1, -1), x.slice(-1, 0, 1)}, -1);
            }),
            tokens());
  table.add(
      "chunk_glu", exact,
      [](const Tensor& x, const Tensor& w) { return attend(at::glu(at::linear(x, w), -1)); },
      tokens({{32, 16}}));
  table.add("unfold_channels", exact,
            then_attend([](const Tensor& x) { return x.unfold(2, 4, 4).flatten(2); }), tokens());
  // Pointwise
  table.add(
      "prelu_channels", exact,
      [](const Tensor& x, const Tensor& w) {
        return attend(at::prelu(x.transpose(1, 2), w).transpose(1, 2));
      },
      tokens({{16}}));
  table.add("prelu_one_weight", exact,
            then_attend_with([](const Tensor& x, const Tensor& w) { return at::prelu(x, w); }),
            tokens({{1}}));
  table.add("log_sigmoid", exact, then_attend([](const Tensor& x) { return at::log_sigmoid(x); }), tokens());
  table.add("activations", exact, then_attend([](const Tensor& x) {
              return at::hardswish(x) + at::mish(x) + at::softplus(x) + at::elu(x) + at::leaky_relu(x, 0.1);
            }),
            tokens());
  table.add("where_and_compare", exact,
            then_attend([](const Tensor& x) { return at::where(x > 0, x, x * 0.1).clamp(-2, 2); }), tokens());
  table.add("addcmul_lerp", exact, then_attend_with([](const Tensor& x, const Tensor& w) {
              return at::lerp(x, at::addcmul(x, x, w, 0.5), 0.3);
            }),
            tokens({{16}}));
  table.add("nan_to_num_sign", exact,
            then_attend([](const Tensor& x) { return at::nan_to_num(x.sign() * x.abs().sqrt()); }), tokens());
  table.add(
      "complex_round_trip", exact, then_attend([](const Tensor& x) {
        auto pairs = at::view_as_complex(x.unflatten(-1, {8, 2}).contiguous());
        return at::view_as_real(pairs * at::complex(at::zeros({8}, x.options()), at::ones({8}, x.options())))
            .flatten(-2);
      }),
      tokens());
  table
      .add("fake_quantize", exact, then_attend([](const Tensor& x) {
             return at::fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127);
           }),
           tokens())
      .no_gradients();
  table.add("quantize_by_amax", exact, then_attend([](const Tensor& x) {
              // dynamic quantization: one scale for all tokens
              auto scale = x.abs().amax() / 127;
              return at::round(x / scale) * scale;
            }),
            tokens());
  table
      .add("quantize_by_token", exact, then_attend([](const Tensor& x) {
             auto scale = x.abs().amax(-1, true) / 127;
             return at::round(x / scale) * scale;
           }),
           tokens())
      .no_gradients();
  table.add("bernoulli_of_nothing", either,
            then_attend([](const Tensor& x) { return x * at::bernoulli(at::ones({16}, x.options())); }),
            tokens());
  // New tensors of the tokens' kind
  table.add("new_zeros_added", exact, then_attend([](const Tensor& x) { return x + x.new_zeros({16}); }),
            tokens());
  table.add("new_ones_times", exact, then_attend([](const Tensor& x) {
              return x * x.new_ones({1, 1, 16});
            }),
            tokens());
  table.add("new_full_sizes", exact,
            then_attend([](const Tensor& x) { return x + x.new_full(x.sizes(), 0.5); }), tokens());
  table.add("ones_like_full_like", exact,
            then_attend([](const Tensor& x) { return x + at::ones_like(x) - at::full_like(x, 0.5); }),
            tokens());
  table.add("weight_to_tokens", exact, then_attend_with([](const Tensor& x, const Tensor& w) {
              return at::linear(x, w.to(x.options()));
            }),
            tokens({{16, 16}}));
  table.add("tokens_to_double_and_back", exact,
            then_attend([](const Tensor& x) { return unit_norm(x.to(at::kDouble)).to(x.options()); }),
            tokens());
  table.add("type_as", exact,
            then_attend([](const Tensor& x) { return x.to(at::kDouble).sigmoid().type_as(x); }), tokens());
  // Norms
  table.add("layer_norm_weights", exact,
            then_attend_with([](const Tensor& x, const Tensor& w) { return at::layer_norm(x, {16}, w, w); }),
            tokens({{16}}));
  table.add("rms_norm_operator", exact,
            then_attend_with([](const Tensor& x, const Tensor& w) { return at::rms_norm(x, {16}, w, 1e-6); }),
            tokens({{16}}));
  table.add("l2_normalize", exact, then_attend([](const Tensor& x) {
              return torch::nn::functional::normalize(x,
                                                      torch::nn::functional::NormalizeFuncOptions().dim(-1));
            }),
            tokens());
  table.add(
      "group_norm_over_tokens", exact,
      [](const Tensor& x, const Tensor& w) {
        return attend(at::group_norm(x.transpose(1, 2), 4, w, w).transpose(1, 2));
      },
      tokens({{16}}));
  table
      .add(
          "instance_norm_over_tokens", exact,
          [](const Tensor& x) {
            return attend(
                at::instance_norm(x.transpose(1, 2), {}, {}, {}, {}, true, 0.1, 1e-5, false).transpose(1, 2));
          },
          tokens())
      .of({37, 16, 8, 5, 3, 2});
  table.add(
      "batch_norm_eval", exact,
      [](const Tensor& x, const Tensor& w) {
        auto mean = at::zeros({16}, x.options()), var = at::ones({16}, x.options());
        return attend(
            at::batch_norm(x.transpose(1, 2), w, w, mean, var, false, 0.1, 1e-5, false).transpose(1, 2));
      },
      tokens({{16}}));
  table
      .add(
          "batch_norm_training", exact,
          [](const Tensor& x, const Tensor& w) {
            return attend(
                at::batch_norm(x.transpose(1, 2), w, w, {}, {}, true, 0.1, 1e-5, false).transpose(1, 2));
          },
          tokens({{16}}))
      .of({37, 16, 8, 5, 3, 2});
  table.add(
      "layer_norm_over_tokens", exact,
      [](const Tensor& x) {
        return attend(at::layer_norm(x, {x.size(1), 16}));
      },
      tokens());
  table.add("softmax_channels", exact, then_attend([](const Tensor& x) { return at::softmax(x, -1) * 16; }),
            tokens());
  table.add("softmax_over_tokens", exact, then_attend([](const Tensor& x) { return at::softmax(x, 1); }),
            tokens());
  table.add("var_over_channels", exact,
            then_attend([](const Tensor& x) { return x / (x.var(-1, false, true) + 1).sqrt(); }), tokens());
  // Distances
  table.add(
      "cosine_similarity", exact,
      [](const Tensor& x, const Tensor& w) {
        return attend(x) * at::cosine_similarity(x, w, -1).unsqueeze(-1);
      },
      tokens({{16}}));
  table.add(
      "cdist_codebook", exact,
      [](const Tensor& x, const Tensor& codes) {
        // vector quantization: the nearest of eight codes for each token
        auto nearest = at::cdist(x, codes.unsqueeze(0).expand({2, 8, 16})).argmin(-1);
        return attend(at::embedding(codes, nearest));
      },
      tokens({{8, 16}}));
  table.add(
      "pairwise_distance", exact,
      [](const Tensor& x, const Tensor& w) {
        return attend(x) * at::pairwise_distance(x, w, 2).unsqueeze(-1);
      },
      tokens({{16}}));
  // Over tokens
  table.add("cumsum_over_tokens", exact, then_attend([](const Tensor& x) { return x.cumsum(1); }), tokens());
  table.add("cummax_over_tokens", exact,
            then_attend([](const Tensor& x) { return std::get<0>(x.cummax(1)); }), tokens());
  table.add("sort_over_tokens", exact, then_attend([](const Tensor& x) { return std::get<0>(x.sort(1)); }),
            tokens());
  table.add("topk_over_tokens", exact, then_attend([](const Tensor& x) { return std::get<0>(x.topk(1, 1)); }),
            tokens());
  table.add(
      "argmax_over_tokens", either, [](const Tensor& x) { return attend(x).argmax(1); }, tokens());
  table.add("repeat_interleave_tokens", exact,
            then_attend([](const Tensor& x) { return x.repeat_interleave(2, 1); }), tokens());
  table.add("repeat_tokens", exact, then_attend([](const Tensor& x) {
              return x.repeat({1, 2, 1});
            }),
            tokens());
  table.add("fft_over_tokens", exact,
            then_attend([](const Tensor& x) { return at::real(at::fft_fft(at::fft_fft(x, {}, -1), {}, 1)); }),
            tokens());
  table.add(
      "stack_two_tokens_versions", exact,
      [](const Tensor& x) {
        return attend(at::stack({x, x * 0.5}, 0).mean(0));
      },
      tokens());
  table.add(
      "cat_tokens_twice", exact,
      [](const Tensor& x) {
        auto y = attend(at::cat({x, x * 0.5}, 1));
        return y.slice(1, 0, x.size(1)) + y.slice(1, x.size(1));
      },
      tokens());
  table.add(
      "sparse_rows_nonzero", exact,
      [](const Tensor& x) {
        auto index = x.select(2, 0).gt(0).nonzero();
        return attend(x) + index.size(0);
      },
      tokens());
  table.add(
      "boolean_index_of_tokens", exact,
      [](const Tensor& x) {
        auto keep = x.select(2, 0).gt(0);
        auto y = at::zeros_like(x);
        y.index_put_({keep}, x.index({keep}) * 2);
        return attend(y);
      },
      tokens());
  table.add(
      "masked_select_scatter", exact,
      [](const Tensor& x) {
        auto mask = x.gt(0);
        return attend(at::zeros_like(x).masked_scatter(mask, x.masked_select(mask) * 2));
      },
      tokens());
  table
      .add(
          "token_merging", exact,
          [](const Tensor& x) {
            // ToMe: tokens that are alike are merged
            auto m = x / x.norm(2, -1, true);
            auto a = m.slice(1, 0, x.size(1), 2), b = m.slice(1, 1, x.size(1), 2);
            auto best = at::matmul(a, b.transpose(1, 2)).argmax(-1);
            auto index = best.unsqueeze(-1).expand({2, best.size(1), 16});
            auto y = x.slice(1, 1, x.size(1), 2).clone();
            return attend(y.scatter_add(1, index, x.slice(1, 0, x.size(1), 2)));
          },
          tokens())
      .of({37, 16, 8, 5, 3, 2});
  // Recurrent per token, and lookups
  table.add(
      "lstm_per_token", exact,
      [](const Tensor& x, const Tensor& wi, const Tensor& wh) {
        // every token is a sequence of four channels groups
        auto y = x.reshape({-1, 4, 4});
        auto zero = at::zeros({1, y.size(0), 4}, x.options());
        auto h = std::get<0>(at::lstm(y, {zero, zero}, {wi, wh}, false, 1, 0.0, false, false, true));
        return attend(h.reshape(x.sizes()));
      },
      tokens({{16, 4}, {16, 4}}));
  table.add(
      "gru_cell_per_token", exact,
      [](const Tensor& x, const Tensor& wi, const Tensor& wh) {
        auto y = x.flatten(0, 1);
        return attend(at::gru_cell(y, y * 0.5, wi, wh).unflatten(0, {x.size(0), x.size(1)}));
      },
      tokens({{48, 16}, {48, 16}}));
  table.add(
      "embedding_of_ids", exact,
      [](const Tensor& ids, const Tensor& wte) { return attend(at::embedding(wte, ids)); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw.integers(9, {2, n}), draw({9, 16})};
      });
  table.add(
      "embedding_index", exact, [](const Tensor& ids, const Tensor& wte) { return attend(wte.index({ids})); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw.integers(9, {2, n}), draw({9, 16})};
      });
  table.add(
      "embedding_one_hot_matmul", exact,
      [](const Tensor& ids, const Tensor& wte) {
        return attend(at::matmul(at::one_hot(ids, 9).to(wte.scalar_type()), wte));
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw.integers(9, {2, n}), draw({9, 16})};
      });
  table.add(
      "embedding_bag", exact,
      [](const Tensor& ids, const Tensor& wte) {
        return attend(
            std::get<0>(at::embedding_bag(wte, ids.flatten(), at::arange(ids.numel()))).view({2, -1, 16}));
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw.integers(9, {2, n}), draw({9, 16})};
      });
  // Experts
  table.add(
      "moe_by_masks", exact,
      [](const Tensor& x, const Tensor& router, const Tensor& experts) {
        auto weights = routes(x, router);
        auto chosen = weights.argmax(-1);
        auto y = at::zeros_like(x);
        for (int64_t e = 0; e < 3; ++e) {
          auto mask = chosen.eq(e).unsqueeze(-1).to(x.scalar_type());
          y = y + at::linear(x, experts[e]) * mask * weights.slice(-1, e, e + 1);
        }
        return attend(y);
      },
      tokens({{3, 16}, {3, 16, 16}}));
  table.add(
      "moe_dense", exact,
      [](const Tensor& x, const Tensor& router, const Tensor& experts) {
        auto all = at::einsum("bnc,edc->bned", {x, experts});
        return attend((all * routes(x, router).unsqueeze(-1)).sum(2));
      },
      tokens({{3, 16}, {3, 16, 16}}));
  table.add(
      "moe_by_where", exact,
      [](const Tensor& x, const Tensor& router, const Tensor& experts) {
        // Mixtral: rows of an expert picked, and added where they belong
        auto flat = x.reshape({-1, 16});
        auto chosen = routes(flat, router).argmax(-1);
        auto y = at::zeros_like(flat);
        for (int64_t e = 0; e < 3; ++e) {
          auto rows = at::where(chosen.eq(e))[0];
          y = y.index_add(0, rows, at::linear(flat.index_select(0, rows), experts[e]));
        }
        return attend(y.view(x.sizes()));
      },
      tokens({{3, 16}, {3, 16, 16}}));
  table.add(
      "moe_by_sorting", exact,
      [](const Tensor& x, const Tensor& router, const Tensor& experts) {
        auto flat = x.reshape({-1, 16});
        auto [chosen, order] = routes(flat, router).argmax(-1).sort();
        auto counts = at::bincount(chosen, {}, 3);
        Tensors parts;
        int64_t begin = 0;
        for (int64_t e = 0; e < 3; ++e) {
          auto many = counts[e].item<int64_t>();
          parts.push_back(at::linear(flat.index_select(0, order.slice(0, begin, begin + many)), experts[e]));
          begin += many;
        }
        return attend(at::cat(parts, 0).index_select(0, order.argsort(int64_t{0})).view(x.sizes()));
      },
      tokens({{3, 16}, {3, 16, 16}}));
  table.add(
      "moe_gathered_weights", exact,
      [](const Tensor& x, const Tensor& router, const Tensor& experts) {
        auto chosen = routes(x, router).argmax(-1);
        return attend(at::matmul(experts.index({chosen}), x.unsqueeze(-1)).squeeze(-1));
      },
      tokens({{3, 16}, {3, 16, 16}}));
  table.add(
      "moe_balance_loss", exact,
      [](const Tensor& x, const Tensor& router) {
        auto weights = routes(x, router);
        return attend(x) * (1 + weights.mean(std::vector<int64_t>{0, 1}).square().sum());
      },
      tokens({{3, 16}}));
}

}  // namespace sequence_modules
