#include <c10/core/AutogradState.h>
#include <torch/autograd.h>
#include <torch/nn.h>

#include <cmath>
#include <future>
#include <map>

#include "table.hpp"

/// What no operator shows: gradients, threads, chance, numbers, state.
namespace sequence_modules {
namespace hidden_cases {
namespace {

namespace nn = torch::nn;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct OwnLinear : torch::autograd::Function<OwnLinear> {
  static Tensor forward(AutogradContext* context, Tensor x, Tensor w) {
    context->save_for_backward({x, w});
    return at::linear(x, w);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    auto saved = context->get_saved_variables();
    return {at::matmul(g[0], saved[1]), at::matmul(g[0].flatten(0, -2).t(), saved[0].flatten(0, -2))};
  }
};

struct OwnRmsNorm : torch::autograd::Function<OwnRmsNorm> {
  static Tensor forward(AutogradContext* context, Tensor x, Tensor w) {
    auto unit = x * at::rsqrt(x.square().mean(-1, true) + 1e-6);
    context->save_for_backward({x, w, unit});
    return unit * w;
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    auto saved = context->get_saved_variables();
    auto x = saved[0], unit = saved[2];
    auto scale = at::rsqrt(x.square().mean(-1, true) + 1e-6), gw = g[0] * saved[1];
    return {scale * (gw - unit * (gw * unit).mean(-1, true)), (g[0] * unit).sum(IntArray{0, 1})};
  }
  using IntArray = std::vector<int64_t>;
};

/// No weight: only what belongs to each element.
struct OwnSwish : torch::autograd::Function<OwnSwish> {
  static Tensor forward(AutogradContext* context, Tensor x) {
    context->save_for_backward({x});
    return x * at::sigmoid(x);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    auto s = at::sigmoid(context->get_saved_variables()[0]), x = context->get_saved_variables()[0];
    return {g[0] * (s + x * s * (1 - s))};
  }
};

/// Skips the second block where the first one's result has changed little.
struct TeaCache {
  Tensor last, kept;
  Tensor operator()(const Tensor& x) {
    auto first = x + attend(x);
    bool same_shape = last.defined() && last.sizes() == first.sizes();
    bool skip = same_shape && ((first - last).abs().mean() / last.abs().mean()).item<float>() < 1.2;
    last = first;
    if (!skip || kept.sizes() != first.sizes()) kept = attend(first) - first;
    return first + kept;
  }
};

struct DropPathBlockImpl : nn::Module {
  Tensor forward(Tensor x) {
    auto keep = at::empty({x.size(0), 1, 1}, x.options()).bernoulli_(0.5).div_(0.5);
    return is_training() ? x + attend(x) * keep : x + attend(x);
  }
};
TORCH_MODULE(DropPathBlock);

/// Dropout that is off.
struct DropoutBlockImpl : nn::Module {
  DropoutBlockImpl() { register_module("drop", drop); }
  Tensor forward(Tensor x) { return attend(drop(x)); }
  nn::Dropout drop{0.5};
};
TORCH_MODULE(DropoutBlock);

std::function<Model()> dropout_block(bool training) {
  return [training] {
    DropoutBlock made;
    made->train(training);
    return Model(made);
  };
}

/// Tokens and a number that steers; on other calls another one.
Inputs with_flag() {
  return [](Draw& draw, int64_t n) {
    auto x = draw({2, n, 16});
    return Tensors{x, x.sum().gt(0).to(at::kFloat).view({1})};
  };
}

}  // namespace
}  // namespace hidden_cases

void hidden(Table& table) {
  using namespace hidden_cases;
  table.kind("autograd");
  table
      .add(
          "own_function", exact,
          [](const Tensor& x, const Tensor& w) { return attend(OwnLinear::apply(x, w)); }, tokens({{16, 16}}))
      .with_gradients = true;
  table
      .add(
          "own_function_rms_norm", exact,
          [](const Tensor& x, const Tensor& w) { return attend(OwnRmsNorm::apply(x, w)); }, tokens({{16}}))
      .with_gradients = true;
  table.add(
      "own_function_pointwise", exact, [](const Tensor& x) { return attend(OwnSwish::apply(x)); }, tokens());
  table.add(
      "own_function_on_weight", exact,
      [](const Tensor& x, const Tensor& w) { return attend(at::linear(x, OwnSwish::apply(w))); },
      tokens({{16, 16}}));
  table
      .add(
          "gradient_hook", exact,
          [](const Tensor& x, const Tensor& w) {
            auto y = at::linear(x, w);
            if (y.requires_grad()) y.register_hook([](Tensor g) { return g / g.norm(); });
            return attend(y);
          },
          tokens({{16, 16}}))
      .with_gradients = true;
  table.add(
      "gradient_hook_scaled", exact,
      [](const Tensor& x, const Tensor& w) {
        auto y = at::linear(x, w);
        if (y.requires_grad()) y.register_hook([](Tensor g) { return g * 0.5; });
        return attend(y);
      },
      tokens({{16, 16}}));
  table.add(
      "gradient_in_forward", either,
      [](const Tensor& x) {
        at::AutoGradMode on(true);
        auto y = x.detach().requires_grad_();
        auto g = torch::autograd::grad({attend(y)}, {y}, {at::ones_like(y)})[0];
        return attend(x / g.norm()).detach();
      },
      tokens());
  table.add(
      "no_grad_part", exact,
      [](const Tensor& x, const Tensor& w) {
        Tensor scale;
        {
          at::NoGradGuard off;
          scale = at::linear(x, w).abs().amax(-1, true);
        }
        return attend(at::linear(x, w) / (scale + 1));
      },
      tokens({{16, 16}}));
  table.add(
      "straight_through", exact, [](const Tensor& x) { return attend(x + (at::round(x) - x).detach()); },
      tokens());
  table.add(
      "weight_used_twice", exact,
      [](const Tensor& x, const Tensor& w) { return at::linear(attend(at::linear(x, w)), w.t()); },
      tokens({{16, 16}}));
  table.add(
      "weight_normalized", exact,
      [](const Tensor& x, const Tensor& w) { return attend(at::linear(x, w / w.norm(2, 1, true))); },
      tokens({{16, 16}}));

  table.kind("caught");
  table.add(
      "caught_refusal", exact,
      [](const Tensor& x) {
        Tensor y;
        try {
          y = x.cumsum(1);
        } catch (const std::exception&) {
          y = x;
        }
        return attend(y);
      },
      tokens());
  table.add(
      "caught_then_attend", exact,
      [](const Tensor& x) {
        try {
          return attend(std::get<0>(x.sort(1)).flip(1));
        } catch (const std::exception&) {
          return attend(x);
        }
      },
      tokens());
  table.add(
      "caught_own_error", exact,
      [](const Tensor& x) {
        try {
          throw std::runtime_error("no fast kernel here");
        } catch (const std::exception&) {
          return attend(x);
        }
      },
      tokens());
  table.add(
      "caught_libtorch_error", exact,
      [](const Tensor& x, const Tensor& w) {
        try {
          return attend(at::linear(x, w));  // of another width
        } catch (const std::exception&) {
          return attend(x);
        }
      },
      tokens({{16, 12}}));

  table.kind("state");
  table
      .made(
          "tea_cache", exact, [] { return Model(TeaCache{}); }, tokens())
      .stateful();
  table.add(
      "step_cache_by_flag", exact,
      [](const Tensor& x, const Tensor& flag) {
        return flag.item<float>() > 0.5 ? attend(x) : attend(attend(x));
      },
      with_flag());
  table.add(
      "second_pass_flag", exact,
      [](const Tensor& x, const Tensor& flag) { return attend(flag.item<float>() > 0.5 ? x.cumsum(1) : x); },
      with_flag());
  table.add(
      "timestep_decides", exact,
      [](const Tensor& x, const Tensor& t) {
        // low noise and high noise experts
        auto w = t.item<float>() > 0.5 ? 2.0 : 0.5;
        return attend(x * w);
      },
      with_flag());
  table
      .made(
          "counter_decides", exact,
          [] {
            return Model([calls = 0](const Tensor& x) mutable {
              return ++calls % 3 ? attend(x) : attend(x - x.mean(1, true));
            });
          },
          tokens())
      .stateful();
  table
      .made(
          "counter_of_layers", exact,
          [] {
            return Model([calls = 0](const Tensor& x) mutable {
              auto y = x;
              for (int i = 0; i <= calls % 2; ++i) y = attend(y);
              ++calls;
              return y;
            });
          },
          tokens())
      .stateful();
  table
      .made(
          "switched_to_train", either,
          [] {
            DropPathBlock m;
            m->eval();
            return Model([m, calls = 0](const Tensor& x) mutable {
              m->train(++calls % 3 == 0);
              return m(x);
            });
          },
          tokens())
      .stateful();
  table.add(
      "branch_on_values", exact,
      [](const Tensor& x) { return x.abs().max().item<double>() > 2.5 ? attend(x) : x; }, tokens());
  table.add(
      "early_exit", exact,
      [](const Tensor& x) {
        auto y = attend(x);
        if ((y - x).norm().item<double>() < 5) return y;
        return attend(y);
      },
      tokens());
  table
      .made(
          "weights_made_late", exact,
          [] {
            return Model([w = Tensor()](const Tensor& x) mutable {
              if (!w.defined()) w = at::eye(16, x.options()) * 0.5;
              return attend(at::linear(x, w));
            });
          },
          tokens())
      .stateful();
  table
      .made(
          "last_result_kept", exact,
          [] {
            return Model([last = Tensor()](const Tensor& x) mutable {
              auto y = attend(x);
              auto result = last.defined() && last.sizes() == y.sizes() ? y + 0.1 * last : y;
              last = y.detach();
              return result;
            });
          },
          tokens())
      .stateful();

  table.kind("thread");
  table.add(
      "thread_statistic", refused,
      [](const Tensor& x) {
        auto m = std::async(std::launch::async, [&] {
          at::NoGradGuard off;
          return x.mean(1, true);
        });
        return attend(x) + m.get();
      },
      tokens());
  table.add(
      "thread_pointwise", exact,
      [](const Tensor& x) {
        auto m = std::async(std::launch::async, [&] {
          at::NoGradGuard off;
          return x * 2;
        });
        return attend(x) + m.get();
      },
      tokens());
  table.add(
      "deferred_statistic", exact,
      [](const Tensor& x, const Tensor& text) {
        auto m = std::async(std::launch::deferred, [&] { return text.mean(1, true); });
        return attend(x) + m.get();
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 3, 16})};
      });
  table.add(
      "raw_pointer_scan", unseen,
      [](const Tensor& x) {
        auto y = x.contiguous(), out = at::empty_like(y);
        auto* from = y.data_ptr<float>();
        auto* to = out.data_ptr<float>();
        for (int64_t b = 0; b < y.size(0); ++b)
          for (int64_t c = 0; c < 16; ++c) {
            float h = 0;
            for (int64_t t = 0; t < y.size(1); ++t) {
              auto i = (b * y.size(1) + t) * 16 + c;
              to[i] = h = 0.9f * h + from[i];
            }
          }
        return attend(out);
      },
      tokens());

  table.kind("random");
  table.made("dropout_off", exact, dropout_block(false), tokens());
  table.made("dropout_training", refused, dropout_block(true), tokens());
  table.made(
      "drop_path_training", refused, [] { return Model(DropPathBlock()); }, tokens());
  table.add(
      "rrelu_training", refused, [](const Tensor& x) { return attend(at::rrelu(x, 0.1, 0.9, true)); },
      tokens());
  table.add(
      "rrelu_off", exact, [](const Tensor& x) { return attend(at::rrelu(x, 0.1, 0.9, false)); }, tokens());
  table.add(
      "noise_like_tokens", refused, [](const Tensor& x) { return attend(x + at::randn_like(x)); }, tokens());
  table.add(
      "noise_for_channels", refused,
      [](const Tensor& x) {
        return attend(x + at::randn({1, 1, 16}, x.options()));
      },
      tokens());
  table.add(
      "noise_seeded_own_generator", exact,
      [](const Tensor& x) {
        return attend(x + at::randn(x.sizes(), at::make_generator<at::CPUGeneratorImpl>(7)));
      },
      tokens());
  table.add(
      "noise_seeded_copied", exact,
      [](const Tensor& x) {
        auto n = at::zeros_like(x);
        n.copy_(at::randn(x.sizes(), at::make_generator<at::CPUGeneratorImpl>(7)));
        return attend(x + n);
      },
      tokens());
  table.add(
      "noise_normal_inplace", refused,
      [](const Tensor& x) { return attend(x + at::empty_like(x).normal_()); }, tokens());
  table.add(
      "text_dropout", refused,
      [](const Tensor& x, const Tensor& text) {
        auto t = at::dropout(text, 0.5, true);
        return x + merge(sdpa(heads(x), heads(t), heads(t)));
      },
      [](Draw& draw, int64_t n) {
        return Tensors{draw({2, n, 16}), draw({2, 3, 16})};
      });
  table.add(
      "sdpa_dropout", refused,
      [](const Tensor& x) {
        auto h = heads(x);
        return merge(at::scaled_dot_product_attention(h, h, h, {}, 0.5));
      },
      tokens());
  table.add(
      "multinomial_of_tokens", refused,
      [](const Tensor& x) { return attend(x) + at::multinomial(at::softmax(x[0], -1), 1).unsqueeze(0); },
      tokens());
  table.add(
      "gumbel_noise", refused,
      [](const Tensor& x) {
        return at::softmax(attend(x) - at::rand_like(x).clamp_min(1e-6).log().neg().log(), -1);
      },
      tokens());

  table.kind("number");
  table.add(
      "length_log", exact, [](const Tensor& x) { return attend(x * std::log(1.0 + x.size(1))); }, tokens());
  table.add(
      "length_scale_in_attention", exact,
      [](const Tensor& x) {
        auto h = heads(x);
        return merge(
            at::scaled_dot_product_attention(h, h, h, {}, 0.0, false, std::log(1.0 + x.size(1)) / 2));
      },
      tokens());
  table.add(
      "length_divides", exact, [](const Tensor& x) { return attend(x / x.size(1)); }, tokens());
  table.add(
      "length_as_tensor", exact,
      [](const Tensor& x) {
        return attend(x / at::tensor(static_cast<double>(x.size(1))).to(x.scalar_type()));
      },
      tokens());
  table.add(
      "length_branch", exact, [](const Tensor& x) { return x.size(1) > 8 ? attend(x * 0.5) : attend(x); },
      tokens());
  table.add(
      "length_counts_layers", exact,
      [](const Tensor& x) {
        auto y = x;
        for (int64_t i = 0; i < x.size(1); i += 16) y = attend(y);
        return y;
      },
      tokens());
  table.add(
      "length_in_full", exact,
      [](const Tensor& x) {
        return attend(x + at::full({1, 1, 16}, x.size(1), x.options()));
      },
      tokens());
  table.add(
      "numel_divides", exact, [](const Tensor& x) { return attend(x / x.numel()); }, tokens());
  table.add(
      "constants_of_ones", exact,
      [](const Tensor& x) {
        return attend(x + at::ones({1, 1, 16}, x.options()) * 0.5);
      },
      tokens());
  table.add(
      "constants_full_batch", exact,
      [](const Tensor& x) {
        return attend(x * at::full({x.size(0), 1, 1}, 0.5, x.options()));
      },
      tokens());
  table.add(
      "scalar_tensor", exact,
      [](const Tensor& x) { return attend(x * at::scalar_tensor(0.5, x.options()) + 1); }, tokens());
}

}  // namespace sequence_modules
