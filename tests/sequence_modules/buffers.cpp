#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "table.hpp"

/// Tensors written to: buffers, workspaces, arguments, operators of one's own.
namespace sequence_modules {
namespace buffers_cases {
namespace {

// Operators as kernel libraries register them.
void scan_out(const Tensor& x, Tensor& out) { out.copy_(x.cumsum(1)); }
void scale_(Tensor& x, double by) { x.mul_(by); }
Tensor layer_norm(const Tensor& x, double eps) { return at::layer_norm(x, {x.size(-1)}, {}, {}, eps); }
Tensor linear(const Tensor& x, const Tensor& w) { return at::linear(x / x.abs().amax(), w); }
Tensor relu(const Tensor& x) { return at::relu(x - x.mean(1, true)); }

TORCH_LIBRARY(sequence_modules, m) {
  m.def("scan_out(Tensor x, Tensor(a!) out) -> ()", &scan_out);
  m.def("scale_(Tensor(a!) x, float by) -> ()", &scale_);
  m.def("layer_norm(Tensor x, float eps) -> Tensor", &layer_norm);
  m.def("linear(Tensor x, Tensor w) -> Tensor", &linear);
  m.def("relu(Tensor x) -> Tensor", &relu);
}

template <class Signature>
auto op(const char* name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("sequence_modules::") + name).c_str(), "")
      .typed<Signature>();
}

}  // namespace
}  // namespace buffers_cases

void buffers(Table& table) {
  using namespace buffers_cases;
  table.kind("buffer");
  table.add(
      "kv_buffer", either,
      [](const Tensor& x) {
        auto k = at::empty({x.size(0), 4, x.size(1), 4});
        k.slice(2, 0, x.size(1)).copy_(heads(x));
        return attend(merge(sdpa(heads(x), k, k)));
      },
      tokens());
  table.add(
      "kv_buffer_longer", either,
      [](const Tensor& x) {
        // a cache with room for more
        auto k = at::zeros({x.size(0), 4, 64, 4});
        k.slice(2, 0, x.size(1)).copy_(heads(x));
        auto keys = k.slice(2, 0, x.size(1));
        return merge(sdpa(heads(x), keys, keys));
      },
      tokens());
  table.add(
      "kv_buffer_static", either,
      [](const Tensor& x) {
        // HF's StaticCache: index_copy_ by positions, a mask over what is empty
        auto k = at::zeros({x.size(0), 4, 40, 4});
        auto p = at::arange(x.size(1));
        k.index_copy_(2, p, heads(x));
        return merge(sdpa(heads(x), k, k, at::arange(40).le(p.unsqueeze(1))));
      },
      tokens());
  table.add(
      "kv_index_put", either,
      [](const Tensor& x) {
        auto k = at::zeros({x.size(0), x.size(1), 16});
        k.index_put_({at::Tensor(at::arange(x.size(0)))}, x);
        return merge(sdpa(heads(x), heads(k), heads(k)));
      },
      tokens());
  table.add(
      "kv_out_variant", either,
      [](const Tensor& x) {
        auto ws = at::empty({2, x.size(0), x.size(1), 16});
        auto k = ws[0];
        at::matmul_out(k, x, at::eye(16));
        return attend(merge(sdpa(heads(x), heads(ws[0]), heads(ws[0]))));
      },
      tokens());
  table.add(
      "views_made_before", either,
      [](const Tensor& x) {
        auto kv = at::empty({x.size(0), x.size(1), 32});
        auto k = kv.slice(2, 0, 16), v = kv.slice(2, 16);
        kv.copy_(at::cat({x, x}, 2));
        return attend(merge(sdpa(heads(x), heads(k), heads(v))));
      },
      tokens());
  table.add(
      "workspace_cat_out", either,
      [](const Tensor& x) {
        auto ws = at::empty({x.size(0), x.size(1), 32});
        at::cat_out(ws, {x, x * 2}, 2);
        auto kv = ws.chunk(2, 2);
        return merge(sdpa(heads(x), heads(kv[0]), heads(kv[1])));
      },
      tokens());
  table.add(
      "foreach_copy", either,
      [](const Tensor& x) {
        auto b = at::empty({2, x.size(1), 16});
        at::_foreach_copy_({b}, {x});
        return attend(x + b.mean(1, true));
      },
      tokens());
  table.add(
      "foreach_mul", exact,
      [](const Tensor& x) {
        auto both = at::_foreach_mul({x, x}, 0.5);
        return attend(both[0] + both[1]);
      },
      tokens());
  table.add(
      "result_buffer_by_slices", exact,
      [](const Tensor& x) {
        auto out = at::empty_like(x);
        out.slice(2, 0, 8).copy_(x.slice(2, 8));
        out.slice(2, 8).copy_(attend(x).slice(2, 0, 8));
        return out;
      },
      tokens());
  table.add(
      "result_buffer_fresh", exact,
      [](const Tensor& x) {
        auto out = at::empty(x.sizes(), x.options());
        out.copy_(attend(x));
        return out;
      },
      tokens());
  table.add(
      "result_buffer_by_batch", exact,
      [](const Tensor& x) {
        auto out = at::zeros(x.sizes(), x.options());
        for (int64_t b = 0; b < x.size(0); ++b) out[b].copy_(attend(x[b].unsqueeze(0))[0]);
        return out;
      },
      tokens());
  table.add(
      "accumulated_heads", exact,
      [](const Tensor& x) {
        auto y = at::zeros_like(x);
        for (auto& part : heads(x).unbind(1)) y = y + part.repeat({1, 1, 4});
        return attend(y);
      },
      tokens());
  table.add(
      "attention_by_heads_stacked", exact,
      [](const Tensor& x) {
        Tensors all;
        for (auto& h : heads(x).unbind(1)) all.push_back(at::scaled_dot_product_attention(h, h, h));
        return at::stack(all, 2).flatten(2);
      },
      tokens());
  table.add(
      "sliced_attention", exact,
      [](const Tensor& x) {
        // diffusers' SlicedAttnProcessor: into zeros, a slice of the batch each
        auto h = heads(x).flatten(0, 1);
        auto out = at::zeros({h.size(0), h.size(1), h.size(2)}, h.options());
        for (int64_t i = 0; i < h.size(0); i += 2) {
          auto part = h.slice(0, i, i + 2);
          out.slice(0, i, i + 2).copy_(at::scaled_dot_product_attention(part, part, part));
        }
        return merge(out.unflatten(0, {x.size(0), 4}));
      },
      tokens());
  table.add(
      "data_of_tokens", exact, [](const Tensor& x) { return attend(x - x.data().mean(1, true)); }, tokens());
  table.add(
      "data_pointwise", exact, [](const Tensor& x) { return attend(x + x.data()); }, tokens());
  table.add(
      "variable_data", exact, [](const Tensor& x) { return attend(x / x.variable_data().abs().amax()); },
      tokens());
  table.add(
      "set_data", either,
      [](const Tensor& x) {
        auto k = at::empty({0});
        k.set_data(x * 2);
        return merge(sdpa(heads(x), heads(k), heads(k)));
      },
      tokens());
  table.add(
      "detached", exact, [](const Tensor& x) { return attend(x + x.detach()); }, tokens());
  table.add(
      "inplace_on_argument", either,
      [](Tensor x) {
        x += 1;
        return attend(x);
      },
      tokens());
  table
      .add(
          "inplace_on_companion", either,
          [](const Tensor& x, Tensor y) {
            y.mul_(2);
            return attend(x + y);
          },
          [](Draw& draw, int64_t n) {
            return Tensors{draw({2, n, 16}), draw({2, n, 16})};
          })
      .at({{0, 1}, {1, 1}});
  table.add(
      "inplace_on_whole_argument", either,
      [](const Tensor& x, Tensor text) {
        text.add_(1);
        return x + merge(sdpa(heads(x), heads(text), heads(text)));
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 3, 16})};
      });
  table.add(
      "inplace_chain", exact,
      [](const Tensor& x) {
        auto y = x * 1;
        y.add_(0.5).mul_(2).sub_(x).relu_();
        return attend(y);
      },
      tokens());
  table.add(
      "inplace_residual", exact,
      [](const Tensor& x) {
        auto y = attend(x) * 1;
        y += x;
        y.mul_(0.5);
        return attend(y);
      },
      tokens());
  table.add(
      "inplace_channel_slice", exact,
      [](const Tensor& x) {
        auto y = x.clone();
        y.slice(2, 0, 4).mul_(2);
        y.select(2, 5).zero_();
        return attend(y);
      },
      tokens());
  table.add(
      "inplace_through_heads_view", exact,
      [](const Tensor& x) {
        auto y = x.clone();
        heads(y).mul_(at::arange(1, 5, x.options()).view({4, 1, 1}));
        return attend(y);
      },
      tokens());
  table.add(
      "inplace_first_token", exact,
      [](const Tensor& x) {
        auto y = x.clone();
        y.select(1, 0).zero_();
        return attend(y);
      },
      tokens());
  table.add(
      "masked_fill_inplace", exact,
      [](const Tensor& x) {
        auto y = x.clone();
        y.masked_fill_(x.gt(1), 0);
        return attend(y);
      },
      tokens());
  table.add(
      "clone_then_contiguous", exact,
      [](const Tensor& x) {
        return attend(x.clone().contiguous().transpose(0, 1).contiguous().transpose(0, 1));
      },
      tokens());
  table.made(
      "state_kept_in_module", exact,
      [] {
        return Model([kept = Tensor()](const Tensor& x) mutable {
          kept = x * 2;
          return attend(kept);
        });
      },
      tokens());

  table.kind("own_operator");
  table.add(
      "op_that_gives_nothing", exact,
      [](const Tensor& x) {
        auto out = at::empty_like(x);
        op<void(const Tensor&, Tensor&)>("scan_out").call(x, out);
        return attend(out);
      },
      tokens());
  table.add(
      "op_in_place_gives_nothing", exact,
      [](const Tensor& x) {
        auto y = x.clone();
        op<void(Tensor&, double)>("scale_").call(y, 2);
        return attend(y);
      },
      tokens());
  table.add(
      "op_named_layer_norm", exact,
      [](const Tensor& x) { return attend(op<Tensor(const Tensor&, double)>("layer_norm").call(x, 1e-5)); },
      tokens());
  table.add(
      "op_named_linear", exact,
      [](const Tensor& x, const Tensor& w) {
        return attend(op<Tensor(const Tensor&, const Tensor&)>("linear").call(x, w));
      },
      tokens({{16, 16}}));
  table.add(
      "op_named_relu", exact,
      [](const Tensor& x) { return attend(op<Tensor(const Tensor&)>("relu").call(x)); }, tokens());
  table.add(
      "op_on_whole_weight", exact,
      [](const Tensor& x, const Tensor& w) {
        return attend(at::linear(x, op<Tensor(const Tensor&, double)>("layer_norm").call(w, 1e-5)));
      },
      tokens({{16, 16}}));
}

}  // namespace sequence_modules
