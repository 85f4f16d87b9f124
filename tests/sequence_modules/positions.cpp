#include <cmath>

#include "table.hpp"

/// Positions that a module makes of the length that it sees.
namespace sequence_modules {
namespace positions_cases {
namespace {

Tensor sines(const Tensor& positions, int64_t width) {
  auto rates = at::exp(at::arange(0, width, 2, positions.options()) * (-std::log(10000.0) / width));
  auto angles = positions.unsqueeze(-1) * rates;
  return at::cat({angles.sin(), angles.cos()}, -1);
}
Tensor rotate_half(const Tensor& x) {
  auto halves = x.chunk(2, -1);
  return at::cat({-halves[1], halves[0]}, -1);
}

/// A table longer than any sequence.
Inputs with_table(Shape shape = {64, kWidth}) { return tokens({shape}); }

}  // namespace
}  // namespace positions_cases

void positions(Table& table) {
  using namespace positions_cases;
  table.kind("positions");
  table.add(
      "arange_sinusoidal", exact,
      [](const Tensor& x) { return attend(x + sines(at::arange(x.size(1), x.options()), 16)); }, tokens());
  table.add(
      "arange_embedding", exact,
      [](const Tensor& x, const Tensor& wpe) {
        return attend(x + at::embedding(wpe, at::arange(x.size(1))));
      },
      with_table());
  table.add(
      "arange_unsqueezed_embedding", exact,
      [](const Tensor& x, const Tensor& wpe) {
        auto ids = at::arange(0, x.size(1), at::kLong).unsqueeze(0).expand({x.size(0), -1});
        return attend(x + at::embedding(wpe, ids));
      },
      with_table());
  table.add(
      "arange_offset_by_two", exact,
      [](const Tensor& x, const Tensor& wpe) {
        // OPT and BART
        return attend(x + at::embedding(wpe, at::arange(2, x.size(1) + 2)));
      },
      with_table());
  table.add(
      "table_slice", exact,
      [](const Tensor& x, const Tensor& wpe) { return attend(x + wpe.slice(0, 0, x.size(1))); },
      with_table());
  table.add(
      "table_slice_batched", exact,
      [](const Tensor& x, const Tensor& wpe) { return attend(x + wpe.narrow(1, 0, x.size(1))); },
      with_table({1, 64, 16}));
  table.add(
      "position_ids_buffer", exact,
      [](const Tensor& x, const Tensor& wpe) {
        auto ids = at::arange(64).unsqueeze(0).slice(1, 0, x.size(1));
        return attend(x + at::embedding(wpe, ids));
      },
      with_table());
  table.add(
      "rope_cos_sin", exact,
      [](const Tensor& x) {
        auto rates = 1.0 / at::pow(10000.0, at::arange(0, 4, 2, x.options()) / 4);
        auto angles = at::outer(at::arange(x.size(1), x.options()), rates);
        auto all = at::cat({angles, angles}, -1);
        auto h = heads(x);
        auto q = h * all.cos() + rotate_half(h) * all.sin();
        return merge(sdpa(q, q, h, {}, true));
      },
      tokens());
  table.add(
      "rope_complex", exact,
      [](const Tensor& x) {
        // Llama's own: polar of an outer product, heads viewed as complex numbers
        auto rates = 1.0 / at::pow(10000.0, at::arange(0, 4, 2, x.options()) / 4);
        auto angles = at::outer(at::arange(x.size(1), x.options()), rates);
        auto turns = at::polar(at::ones_like(angles), angles).view({1, 1, x.size(1), 2});
        auto h = heads(x);
        auto q =
            at::view_as_real(at::view_as_complex(h.unflatten(-1, {2, 2}).contiguous()) * turns).flatten(3);
        return merge(sdpa(q, q, h));
      },
      tokens());
  table.add(
      "rope_einsum_freqs", exact,
      [](const Tensor& x) {
        auto rates = 1.0 / at::pow(100.0, at::arange(0, 2, x.options()) / 2);
        auto angles = at::einsum("i,j->ij", {at::arange(x.size(1), x.options()), rates}).repeat({1, 2});
        auto h = heads(x);
        auto q = h * angles.cos() + rotate_half(h) * angles.sin();
        return merge(sdpa(q, q, h));
      },
      tokens());
  table
      .add(
          "rope_given_by_arguments", exact,
          [](const Tensor& x, const Tensor& angles) {
            auto h = heads(x);
            auto q = h * angles.cos() + rotate_half(h) * angles.sin();
            return merge(sdpa(q, q, h));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({n, 4})};
          })
      .at({{0, 1}, {1, 0}});
  table
      .add(
          "positions_given_to_be_embedded", exact,
          [](const Tensor& x, const Tensor& ids, const Tensor& wpe) {
            return attend(x + at::embedding(wpe, ids));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), at::arange(n), draw.weight({64, 16})};
          })
      .at({{0, 1}, {1, 0}});
  table.add(
      "positions_by_cumsum_of_ones", exact,
      [](const Tensor& x, const Tensor& wpe) {
        // RoBERTa: positions counted from what is not padding
        auto mask = x.select(2, 0).abs().gt(-1).to(at::kLong);
        return attend(x + at::embedding(wpe, mask.cumsum(1) - 1));
      },
      with_table());
  table.add(
      "linspace_positions", exact,
      [](const Tensor& x) { return attend(x + at::linspace(0, 1, x.size(1), x.options()).unsqueeze(-1)); },
      tokens());
  table.add(
      "arange_over_length", exact,
      [](const Tensor& x) {
        return attend(x + (at::arange(x.size(1), x.options()) / x.size(1)).unsqueeze(-1));
      },
      tokens());
  table.add(
      "reversed_positions", exact,
      [](const Tensor& x) {
        return attend(x + at::arange(x.size(1) - 1, -1, -1, x.options()).unsqueeze(-1));
      },
      tokens());
  table.add(
      "ones_cumsum_positions", exact,
      [](const Tensor& x) { return attend(x + at::ones({x.size(1)}, x.options()).cumsum(0).unsqueeze(-1)); },
      tokens());
  table.add(
      "grid_positions_2d", exact,
      [](const Tensor& x) {
        // rows and columns of a picture that is two tokens wide
        auto at_token = at::arange(x.size(1), x.options());
        auto rows = at::floor(at_token / 2), columns = at::remainder(at_token, 2);
        return attend(x + at::cat({sines(rows, 8), sines(columns, 8)}, -1));
      },
      tokens());
  table.add(
      "interpolated_table", exact,
      [](const Tensor& x, const Tensor& wpe) {
        // ViT at another resolution: the table is stretched to the length
        auto longer = at::upsample_linear1d(wpe.t().unsqueeze(0), {x.size(1)}, false);
        return attend(x + longer.transpose(1, 2));
      },
      with_table({8, 16}));
  table.add(
      "copied_positions", exact,
      [](const Tensor& x) {
        auto p = at::zeros_like(x.select(2, 0));
        p.copy_(at::arange(x.size(1)));
        return attend(x + p.unsqueeze(-1));
      },
      tokens());
  table.add(
      "positions_by_setitem", exact,
      [](const Tensor& x) {
        auto p = at::zeros_like(x);
        p.slice(2, 0, 1) += at::arange(x.size(1), x.options()).unsqueeze(-1);
        return attend(x + p);
      },
      tokens());
  table.add(
      "positions_in_a_vector", exact,
      [](const Tensor& x) {
        std::vector<float> p(x.size(1));
        for (size_t i = 0; i < p.size(); ++i) p[i] = static_cast<float>(i);
        return attend(x + at::tensor(p).unsqueeze(-1));
      },
      tokens());
  table.add(
      "linear_bias_of_rows", exact,
      [](const Tensor& x) {
        auto rows = at::arange(x.size(1), x.options()).view({-1, 1}).expand({x.size(1), 16});
        return attend(at::linear(x[0], at::eye(16, x.options()), rows).unsqueeze(0));
      },
      one_sample());
  table.add(
      "addmm_of_rows", exact,
      [](const Tensor& x) {
        auto rows = at::arange(x.size(1), x.options()).view({-1, 1});
        return attend(at::addmm(rows, x[0], at::eye(16, x.options())).unsqueeze(0));
      },
      one_sample());
  table.add(
      "last_row_of_table", exact,
      [](const Tensor& x, const Tensor& wpe) { return attend(x + wpe[x.size(1) - 1]); }, with_table());
}

void masks(Table& table) {
  table.kind("mask");
  const auto causal = [](const Tensor& x) {
    return at::ones({x.size(1), x.size(1)}, x.options().dtype(at::kBool)).tril();
  };
  table.add(
      "causal_tril_of_ones", exact, [=](const Tensor& x) { return attend(x, causal(x)); }, tokens());
  table.add(
      "causal_triu_of_inf", exact,
      [](const Tensor& x) {
        return attend(x, at::full({x.size(1), x.size(1)}, -INFINITY, x.options()).triu(1));
      },
      tokens());
  table.add(
      "causal_by_arange", exact,
      [](const Tensor& x) {
        auto p = at::arange(x.size(1));
        return attend(x, p.unsqueeze(1).ge(p.unsqueeze(0)));
      },
      tokens());
  table.add(
      "causal_finfo_min", exact,
      [](const Tensor& x) {
        // transformers' _make_causal_mask
        auto n = x.size(1);
        auto mask = at::full({n, n}, std::numeric_limits<float>::lowest(), x.options());
        auto at_key = at::arange(n);
        mask = mask.masked_fill(at_key.lt((at_key + 1).view({n, 1})), 0);
        return attend(x, mask.unsqueeze(0).unsqueeze(0).expand({x.size(0), 1, n, n}));
      },
      tokens());
  table.add(
      "window_mask", exact,
      [](const Tensor& x) {
        auto p = at::arange(x.size(1));
        return attend(x, (p.unsqueeze(1) - p.unsqueeze(0)).abs().le(2));
      },
      tokens());
  table.add(
      "causal_window_tril_triu", exact,
      [=](const Tensor& x) { return attend(x, causal(x).logical_and(causal(x).triu(-3))); }, tokens());
  table.add(
      "alibi", exact,
      [](const Tensor& x) {
        auto slopes = at::pow(2.0, -at::arange(1, 5, x.options()) * 2).view({4, 1, 1});
        auto p = at::arange(x.size(1), x.options());
        auto bias = slopes * (p.unsqueeze(0) - p.unsqueeze(1)).unsqueeze(0);
        return attend(x, bias.unsqueeze(0));
      },
      tokens());
  table.add(
      "alibi_by_keys", exact,
      [](const Tensor& x) {
        // BLOOM: a bias [heads, 1, n], which a softmax takes the same way
        auto slopes = at::pow(2.0, -at::arange(1, 5, x.options()) * 2).view({1, 4, 1, 1});
        return attend(x, slopes * at::arange(x.size(1), x.options()));
      },
      tokens());
  table.add(
      "t5_buckets_inside", exact,
      [](const Tensor& x, const Tensor& embedding) {
        auto p = at::arange(x.size(1));
        auto far = (p.unsqueeze(0) - p.unsqueeze(1));
        auto buckets = far.gt(0).to(at::kLong) * 8 + far.abs().clamp_max(7);
        auto bias = at::embedding(embedding, buckets).permute({2, 0, 1}).unsqueeze(0);
        return attend(x, bias);
      },
      tokens({{16, 4}}));
  table.add(
      "relative_bias_by_index", exact,
      [](const Tensor& x, const Tensor& biases) {
        // Swin, BEiT: a table indexed by distance
        auto p = at::arange(x.size(1));
        auto index = p.unsqueeze(0) - p.unsqueeze(1) + 64;
        return attend(x, biases.index({index}).permute({2, 0, 1}).unsqueeze(0));
      },
      tokens({{128, 4}}));
  table.add(
      "padding_from_ids", exact,
      [](const Tensor& ids, const Tensor& wte) {
        // the tokens are integers, 0 is padding
        auto x = at::embedding(wte, ids);
        auto mask = ids.ne(0).unsqueeze(1).unsqueeze(2);
        return attend(x, mask);
      },
      [](Draw& draw, int64_t n) {
        auto ids = draw.integers(9, {2, n});
        ids.select(1, 0).fill_(3);  // a row without any key would be no number
        return Tensors{ids, draw({9, 16})};
      });
  table
      .add(
          "padding_additive_from_mask", exact,
          [](const Tensor& x, const Tensor& attention_mask) {
            // BERT: 1 for a token, 0 for padding, cut like the tokens
            auto mask = (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(x.scalar_type())) * -10000.0;
            return attend(x, mask);
          },
          [](Draw& draw, int64_t n) {
            auto mask = at::ones({2, n}, at::kLong);
            mask.slice(1, n - n / 3).fill_(0);
            return Tensors{draw({2, n, 16}), mask};
          })
      .at({{0, 1}, {1, 1}});
  table
      .add(
          "same_document_mask", exact,
          [](const Tensor& x, const Tensor& document) {
            // packed documents: only keys of one's own
            return attend(x, document.unsqueeze(2).eq(document.unsqueeze(1)).unsqueeze(1));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw.integers(3, {2, n})};
          })
      .at({{0, 1}, {1, 1}});
  table.add(
      "mask_given_whole", exact,
      [](const Tensor& x, const Tensor& mask) { return attend(attend(x, mask), mask); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({n, n})};
      });
  table.add(
      "mask_given_by_heads", exact, [](const Tensor& x, const Tensor& mask) { return attend(x, mask * 0.5); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 4, n, n})};
      });
  table.add(
      "mask_of_keys_given", exact, [](const Tensor& x, const Tensor& mask) { return attend(x, mask); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 1, 1, n})};
      });
  table.add(
      "mask_of_queries_given", exact, [](const Tensor& x, const Tensor& mask) { return attend(x, mask); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 1, n, 1})};
      });
  table.add(
      "mask_of_one_given", exact, [](const Tensor& x, const Tensor& mask) { return attend(x, mask); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 1, 1, 1})};
      });
  const auto rows_masked_by = [](double value) {
    return [value](Draw& draw, int64_t n) {
      // padding on the left: the first rows see nothing but what is masked
      auto rows = at::arange(n).unsqueeze(1).lt(2).expand({n, n});
      return Tensors{draw({2, n, 16}), at::zeros({n, n}).masked_fill(rows, value)};
    };
  };
  const auto given = [](const Tensor& x, const Tensor& mask) { return attend(x, mask); };
  table.add("mask_finfo_min", exact, given, rows_masked_by(std::numeric_limits<float>::lowest()))
      .no_gradients();
  table.add("mask_1e4", exact, given, rows_masked_by(-1e4)).no_gradients();
  table.add("mask_1e9", exact, given, rows_masked_by(-1e9)).no_gradients();
  table.add("mask_rows_of_inf", exact, given, rows_masked_by(-INFINITY)).no_gradients();
  table
      .add("mask_finfo_left_padding", exact, given,
           [](Draw& draw, int64_t n) {
             // finfo.min twice: causal and padding, added
             auto least = std::numeric_limits<float>::lowest();
             auto mask = at::full({n, n}, least).triu(1).unsqueeze(0).unsqueeze(0).repeat({2, 1, 1, 1});
             mask.select(0, 1).slice(2, 0, n / 2).fill_(least);
             return Tensors{draw({2, n, 16}), mask};
           })
      .no_gradients();
  table.add(
      "attention_sink", exact,
      [](const Tensor& x, const Tensor& sink) {
        // a learned key of no value, in front
        auto k = at::cat({heads(sink.expand({2, 1, 16})), heads(x)}, 2);
        auto v = at::cat({at::zeros({2, 4, 1, 4}, x.options()), heads(x)}, 2);
        return merge(sdpa(heads(x), k, v));
      },
      tokens({{1, 1, 16}}));
  table.add(
      "mask_by_threshold_of_scores", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        auto scores = at::matmul(h, h.transpose(-2, -1));
        return merge(sdpa(h, h, h, scores.gt(-100)));
      },
      tokens());
  table.add(
      "causal_decoding_offset", exact,
      [](const Tensor& x) {
        auto n = x.size(1);
        auto mask = at::ones({n, n}, at::kBool).tril(n - n);
        return attend(x, mask.view({1, 1, n, n}));
      },
      tokens());
  table
      .add(
          "bias_of_cdist", exact,
          [](const Tensor& x, const Tensor& at_place) {
            // points in space: the bias is how far apart they are
            return attend(x, -at::cdist(at_place, at_place).unsqueeze(1));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, n, 3})};
          })
      .no_gradients();
  table
      .add(
          "bias_of_cdist_split", exact,
          [](const Tensor& x, const Tensor& at_place) {
            return attend(x, -at::cdist(at_place, at_place).unsqueeze(1));
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, n, 3})};
          })
      .at({{0, 1}, {1, 1}});
  table.add(
      "bias_trained_alone", exact,
      [](const Tensor& x, const Tensor& bias) { return attend(x.detach(), bias); },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({1, 4, n, n})};
      });
}

}  // namespace sequence_modules
