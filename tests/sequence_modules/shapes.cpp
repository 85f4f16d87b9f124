#include "table.hpp"

/// Reshapes, and the ends of models.
namespace sequence_modules {
namespace shapes_cases {
namespace {

/// Attention in which what is left of the shape is written -1 in some way.
template <class Back>
auto attention_with(Back back) {
  return [back](const Tensor& x) {
    auto h = heads(x);
    return x + back(sdpa(h, h, h), x);
  };
}

}  // namespace
}  // namespace shapes_cases

void shapes(Table& table) {
  using namespace shapes_cases;
  table.kind("shape");
  table.add(
      "hf5_reshape_heads_free", exact,
      [](const Tensor& x) {
        // transformers 5: an identity at the end of its sdpa_attention.py
        auto h = heads(x);
        auto y = sdpa(h, h, h).reshape({x.size(0), -1, x.size(1), 4});
        return merge(y);
      },
      tokens());
  table.add(
      "view_free_batch", exact,
      [](const Tensor& x) {
        return attend(x).view({-1, x.size(1), kWidth});
      },
      tokens());
  table.add(
      "view_free_batch_of_one", exact,
      [](const Tensor& x) {
        return attend(x).view({-1, x.size(1), kWidth});
      },
      one_sample());
  table.add(
      "reshape_free_tokens", exact,
      [](const Tensor& x) {
        return attend(x.reshape({x.size(0), -1, kWidth}));
      },
      tokens());
  table.add("reshape_free_width", exact, attention_with([](const Tensor& y, const Tensor& x) {
              return y.transpose(1, 2).reshape({x.size(0), x.size(1), -1});
            }),
            tokens());
  table.add(
      "view_free_head_width", exact,
      [](const Tensor& x) {
        auto h = x.view({x.size(0), x.size(1), kHeads, -1}).transpose(1, 2);
        return merge(sdpa(h, h, h));
      },
      tokens());
  table.add(
      "view_free_heads", exact,
      [](const Tensor& x) {
        auto h = x.view({x.size(0), x.size(1), -1, 4}).transpose(1, 2);
        return merge(sdpa(h, h, h)).contiguous();
      },
      tokens());
  table.add(
      "batch_heads_free", exact,
      [](const Tensor& x) {
        auto h = heads(x).reshape({-1, x.size(1), 4});
        auto y = sdpa(h, h, h).view({x.size(0), 4, x.size(1), 4});
        return merge(y);
      },
      tokens());
  table.add(
      "batch_heads_counted", exact,
      [](const Tensor& x) {
        auto h = heads(x).reshape({x.size(0) * 4, x.size(1), 4});
        return merge(sdpa(h, h, h).view({x.size(0), 4, x.size(1), 4}));
      },
      tokens());
  table.add(
      "flat_tokens_linear", exact,
      [](const Tensor& x, const Tensor& w) {
        // addmm over all rows, as Conv1D of GPT-2
        auto y = at::addmm(at::zeros({16}, x.options()), x.view({-1, kWidth}), w);
        return attend(y.view({x.size(0), x.size(1), kWidth}));
      },
      tokens({{16, 16}}));
  table.add(
      "flat_tokens_view_sizes", exact,
      [](const Tensor& x, const Tensor& w) { return attend(at::mm(x.flatten(0, 1), w).view(x.sizes())); },
      tokens({{16, 16}}));
  table.add(
      "flat_tokens_one_sample", exact,
      [](const Tensor& x, const Tensor& w) { return attend(at::mm(x.squeeze(0), w).unsqueeze(0)); },
      one_sample({{16, 16}}));
  table
      .add(
          "no_batch", exact,
          [](const Tensor& x) {
            auto h = x.view({-1, 4, 4}).transpose(0, 1);
            return sdpa(h, h, h).transpose(0, 1).reshape({-1, 16});
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({n, 16})};
          })
      .at({{0, 0}});
  table
      .add(
          "tokens_first_permute", exact,
          [](const Tensor& x) {
            return attend(x.permute({1, 0, 2})).permute({1, 0, 2});
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({n, 2, 16})};
          })
      .at({{0, 0}});
  table
      .add(
          "channels_first", exact,
          [](const Tensor& x) { return attend(x.transpose(1, 2)).transpose(1, 2).contiguous(); },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, 16, n})};
          })
      .at({{0, 2}});
  table.add(
      "movedim_and_swap", exact,
      [](const Tensor& x) {
        auto h = x.unflatten(-1, {4, 4}).movedim(2, 1);
        return sdpa(h, h, h).swapaxes(1, 2).flatten(-2);
      },
      tokens());
  table.add(
      "fused_qkv_view_select", exact,
      [](const Tensor& x, const Tensor& w) {
        auto qkv = at::linear(x, w).view({x.size(0), x.size(1), 3, 4, 4});
        auto part = [&](int64_t i) { return qkv.select(2, i).transpose(1, 2); };
        return merge(sdpa(part(0), part(1), part(2)));
      },
      tokens({{48, 16}}));
  table.add(
      "fused_qkv_by_head", exact,
      [](const Tensor& x, const Tensor& w) {
        // GPT-NeoX, BLOOM: q, k and v of one head lie together
        auto qkv = at::linear(x, w).view({x.size(0), x.size(1), 4, 12}).permute({0, 2, 1, 3}).chunk(3, -1);
        return merge(sdpa(qkv[0], qkv[1], qkv[2]));
      },
      tokens({{48, 16}}));
  table.add(
      "as_strided_heads", exact,
      [](const Tensor& x) {
        auto c = x.contiguous();
        auto h = c.as_strided({x.size(0), 4, x.size(1), 4}, {x.size(1) * 16, 4, 16, 1});
        return merge(sdpa(h, h, h));
      },
      tokens());
  table.add(
      "view_as_and_expand_as", exact,
      [](const Tensor& x, const Tensor& b) { return attend(x.reshape_as(x) + b.expand_as(x)); },
      tokens({{16}}));
  table.add(
      "squeeze_unsqueeze", exact,
      [](const Tensor& x) { return attend(x.unsqueeze(1).squeeze(1)).unsqueeze(-1).squeeze(-1); }, tokens());
  table.add(
      "inplace_squeeze", exact,
      [](const Tensor& x) {
        auto y = x * 1;
        y.squeeze_(0);
        return attend(y.unsqueeze(0)).squeeze(0).unsqueeze(0);
      },
      one_sample());
  table.add(
      "inplace_unsqueeze_transpose", exact,
      [](const Tensor& x) {
        auto y = x * 2;
        y.unsqueeze_(1).transpose_(1, 2);
        y.add_(1);
        y.swapaxes_(2, 1).squeeze_(1);
        return attend(y);
      },
      tokens());
  table.add(
      "strides_decide", exact,
      [](const Tensor& x) {
        // What is done by the memory's order must be done by every rank, as by one.
        auto t = x.transpose(1, 2);
        auto weighed = [](const Tensor& y) { return y.is_contiguous() ? 1. : 2. + double(y.stride(1)); };
        auto conv = at::conv1d(t, at::eye(16, x.options()).unsqueeze(-1));
        auto factor = weighed(std::get<0>(at::sort(t, 1))) + weighed(at::masked_fill(t, t > 1, 0.)) +
                      weighed(conv) + weighed(t.softmax(1)) + weighed(t.cumsum(1)) + weighed(x.matmul(t));
        return attend(x * factor);
      },
      tokens());
  table
      .add(
          "patches_merged_two_by_two", exact,
          [](const Tensor& x) {
            return attend(x).reshape({2, x.size(1) / 2, 32});
          },
          tokens())
      .of({16, 8, 4, 2});
  table
      .add(
          "windows_by_length", exact,
          [](const Tensor& x) {
            auto n = x.size(1) / 4;
            auto y = attend(x.view({2, n, 4, 16}).flatten(0, 1)).view({2, n, 4, 16}).flatten(1, 2);
            return attend(y);
          },
          tokens())
      .of({16, 8, 4});
  table
      .add(
          "windows_by_free_dimension", exact,
          [](const Tensor& x) {
            return attend(attend(x.reshape({-1, 4, 16})).reshape(x.sizes()));
          },
          tokens())
      .of({16, 8, 4});
  table
      .add(
          "frames_of_four_free", exact,
          [](const Tensor& x) {
            auto y = x.view({2, 4, x.size(1) / 4, 16});
            return attend(y.flatten(0, 1)).view({2, -1, 16}) + x;
          },
          tokens())
      .of({16, 8, 4});
}

void ends(Table& table) {
  table.kind("end");
  table.add(
      "end_mean", exact, [](const Tensor& x) { return attend(x).mean(1); }, tokens());
  table.add(
      "end_mean_linear", exact,
      [](const Tensor& x, const Tensor& w) { return at::linear(unit_norm(attend(x).mean(1)), w); },
      tokens({{10, 16}}));
  table.add(
      "end_mean_kept", exact, [](const Tensor& x) { return attend(x) - attend(x).mean(1, true); }, tokens());
  table.add(
      "end_sum_by_length", exact, [](const Tensor& x) { return attend(x).sum(1) / x.size(1); }, tokens());
  table.add(
      "end_first_token", exact, [](const Tensor& x) { return attend(x).select(1, 0); }, tokens());
  table.add(
      "end_first_token_slice", exact, [](const Tensor& x) { return attend(x).slice(1, 0, 1); }, tokens());
  table.add(
      "end_last_token", exact, [](const Tensor& x) { return attend(x, {}, true).select(1, -1); }, tokens());
  table.add(
      "end_last_token_counted", exact,
      [](const Tensor& x) { return attend(x, {}, true).select(1, x.size(1) - 1); }, tokens());
  table.add(
      "end_last_logits", exact,
      [](const Tensor& x, const Tensor& w) { return at::linear(attend(x, {}, true).slice(1, -1), w); },
      tokens({{9, 16}}));
  table.add(
      "end_max_pool", exact, [](const Tensor& x) { return std::get<0>(attend(x).max(1)); }, tokens());
  table.add(
      "end_amax", exact, [](const Tensor& x) { return attend(x).amax(1); }, tokens());
  table.add(
      "end_attention_pool", exact,
      [](const Tensor& x, const Tensor& w) {
        auto y = attend(x);
        auto weights = at::softmax(at::linear(y, w), 1);
        return (weights * y).sum(1);
      },
      tokens({{1, 16}}));
  table.add(
      "end_attention_pool_matmul", exact,
      [](const Tensor& x, const Tensor& w) {
        auto y = attend(x);
        auto weights = at::softmax(at::matmul(y, w), 1);
        return at::matmul(weights.transpose(1, 2), y);
      },
      tokens({{16, 2}}));
  table
      .add(
          "end_masked_mean", exact,
          [](const Tensor& x, const Tensor& mask) {
            // sentence transformers
            auto m = mask.unsqueeze(-1).to(x.scalar_type());
            return (attend(x) * m).sum(1) / m.sum(1).clamp_min(1e-9);
          },
          [](Draw& draw, int64_t n) {
            auto mask = at::ones({2, n}, at::kLong);
            mask.select(0, 0).slice(0, n - n / 3).fill_(0);
            return Tensors{draw({2, n, 16}), mask};
          })
      .at({{0, 1}, {1, 1}});
  table.add(
      "end_logits", exact,
      [](const Tensor& x, const Tensor& w) { return at::linear(unit_norm(attend(x, {}, true)), w); },
      tokens({{9, 16}}));
  table.add(
      "end_log_softmax", exact,
      [](const Tensor& x, const Tensor& w) { return at::log_softmax(at::linear(attend(x), w), -1); },
      tokens({{9, 16}}));
  table
      .add(
          "end_argmax_ids", exact, [](const Tensor& x) { return attend(x).argmax(-1); }, tokens())
      .no_gradients();
  table.add(
      "end_tied_embedding", exact,
      [](const Tensor& ids, const Tensor& wte) {
        return at::matmul(attend(at::embedding(wte, ids), {}, true), wte.t());
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw.integers(9, {2, n}), draw({9, 16}) / 4};
      });
  const Inputs labelled = [](Draw& draw, int64_t n) {
    return Tensors{draw({2, n, 16}), draw.integers(16, {2, n})};
  };
  table
      .add(
          "end_cross_entropy_each", exact,
          [](const Tensor& x, const Tensor& labels) {
            auto y = attend(x, {}, true);
            return at::cross_entropy_loss(y.transpose(1, 2), labels, {}, at::Reduction::None);
          },
          labelled)
      .at({{0, 1}, {1, 1}});
  table
      .add(
          "end_cross_entropy_mean", exact,
          [](const Tensor& x, const Tensor& labels) {
            return at::cross_entropy_loss(attend(x, {}, true).view({-1, 16}), labels.view({-1}));
          },
          labelled)
      .at({{0, 1}, {1, 1}});
  table
      .add(
          "end_cross_entropy_shifted", exact,
          [](const Tensor& x, const Tensor& labels) {
            auto y = attend(x, {}, true).slice(1, 0, -1);
            return at::cross_entropy_loss(y.reshape({-1, 16}), labels.slice(1, 1).reshape({-1}));
          },
          labelled)
      .at({{0, 1}, {1, 1}})
      .of({37, 16, 8, 5, 3, 2});
  table.add(
      "end_mse", exact, [](const Tensor& x) { return at::mse_loss(attend(x), x); }, tokens());
  table.add(
      "end_norm_of_all", exact, [](const Tensor& x) { return x / attend(x).norm(); }, tokens());
  table
      .add(
          "end_unpatchify", exact,
          [](const Tensor& x, const Tensor& w) {
            // DiT: tokens to a picture two tokens wide, rows stay in order
            auto y = at::linear(attend(x), w).unflatten(1, {-1, 2}).unflatten(-1, {2, 2, 3});
            return y.permute({0, 5, 1, 3, 2, 4}).flatten(4, 5).flatten(2, 3);
          },
          tokens({{12, 16}}))
      .of({16, 8, 4, 2});
  table
      .add(
          "end_std", exact, [](const Tensor& x) { return attend(x) / (x.std(1, true, true) + 1); }, tokens())
      .of({37, 16, 8, 5, 3, 2});
  table.add(
      "end_pooled_and_tokens", exact,
      [](const Tensor& x, const Tensor& w) {
        auto y = attend(x);
        return y * at::sigmoid(at::linear(y.mean(1, true), w));  // squeeze and excite
      },
      tokens({{16, 16}}));
  table.add(
      "end_adaptive_pool", exact,
      [](const Tensor& x) { return at::adaptive_avg_pool1d(attend(x).transpose(1, 2), 1).flatten(1); },
      tokens());
  table.add(
      "end_first_by_indices", exact,
      [](const Tensor& x) {
        return attend(x).index({at::arange(2), at::zeros({2}, at::kLong)});
      },
      tokens());
  table.add(
      "end_last_by_lengths", exact,
      [](const Tensor& x, const Tensor& lengths) {
        return attend(x, {}, true).index({at::arange(2), lengths - 1});
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), at::tensor(std::vector<int64_t>{n, (n + 1) / 2})};
      });
  table.add(
      "end_eot_by_argmax", exact,
      [](const Tensor& ids, const Tensor& wte) {
        // CLIP's text: the token of the greatest id
        auto y = attend(at::embedding(wte, ids), {}, true);
        return y.index({at::arange(2), ids.argmax(-1)});
      },
      [](Draw& draw, int64_t n) {
        auto ids = draw.integers(8, {2, n});
        ids.select(1, n / 2).fill_(8);
        return Tensors{ids, draw({9, 16})};
      });
}

}  // namespace sequence_modules
