// What modules make of how many tokens there are, and what they do to views of them.
#include <torch/autograd.h>

#include <cmath>

#include "table.hpp"

namespace sequence_modules {

void lengths(Table& table) {
  table.kind("length");
  for (int64_t width : {2, 3, 5, 7, 8})
    table.add(
        "padded_to_" + std::to_string(width), exact,
        [width](const Tensor& x) {
          const auto n = x.size(1), pad = (width - n % width) % width;
          auto windows = at::constant_pad_nd(x, {0, 0, 0, pad}, 1.0).reshape({2, -1, width, 16});
          return attend(x + windows.mean(2).sum(1, true));
        },
        tokens());
  for (int64_t width : {3, 4, 8})
    table
        .add(
            "trimmed_to_" + std::to_string(width), exact,
            [width](const Tensor& x) {
              return x.slice(1, 0, x.size(1) - x.size(1) % width).reshape({2, -1, width, 16}).mean(2);
            },
            tokens())
        .of({37, 16, 8});
  const std::vector<std::pair<std::string, std::function<double(int64_t)>>> numbers{
      {"logarithm", [](int64_t n) { return std::log(n + 1.0); }},
      {"root", [](int64_t n) { return 1 / std::sqrt(static_cast<double>(n)); }},
      {"rounds_of_a_scan", [](int64_t n) { return std::floor(std::log2(static_cast<double>(n))); }},
      {"rest_of_sixteen", [](int64_t n) { return 1.0 + static_cast<double>(n % 16); }},
      {"at_least", [](int64_t n) { return static_cast<double>(std::max<int64_t>(n, 12)); }},
      {"at_most", [](int64_t n) { return static_cast<double>(std::min<int64_t>(n, 12)); }},
      {"long_or_short", [](int64_t n) { return n > 12 ? 2.0 : 3.0; }},
  };
  for (auto& [name, number] : numbers)
    table.add(
        "number_" + name, exact, [number = number](const Tensor& x) { return attend(x * number(x.size(1))); },
        tokens());
  table.add(
      "dynamic_ntk", exact,
      [](const Tensor& x) {
        const auto n = x.size(1);
        const auto base = 10000 * (n > 12 ? std::pow(2.0 * n / 12 - 1, 16.0 / 14) : 1.0);
        auto each =
            at::outer(at::arange(n, x.options()), at::pow(base, at::arange(0, 16, 2, x.options()) / -16));
        return attend(x * at::cat({each, each}, -1).cos());
      },
      tokens());
  table.add(
      "topk_of_a_few", exact,
      [](const Tensor& x) {
        return attend(x + std::get<0>(x.topk(std::min<int64_t>(9, x.size(1)), 1)).sum(1, true));
      },
      tokens());
  table
      .add(
          "sizes_as_result", exact,
          [](const Tensor& x) {
            return at::tensor(
                std::vector<double>{static_cast<double>(x.size(0)), static_cast<double>(x.size(1))});
          },
          tokens())
      .no_gradients();
  // Positions and tables that are kept from call to call
  table
      .made(
          "position_goes_on", exact,
          [] {
            auto seen = std::make_shared<int64_t>(0);
            return Model([seen](const Tensor& x) {
              auto place = at::arange(x.size(1), x.options()) + *seen;
              *seen += x.size(1);
              return attend(x * (place * 0.01).cos().unsqueeze(-1));
            });
          },
          tokens())
      .stateful();
  table
      .made(
          "table_grows", exact,
          [] {
            auto kept = std::make_shared<Tensor>();
            return Model([kept](const Tensor& x) {
              if (!kept->defined() || kept->size(0) < x.size(1))
                *kept = at::outer(at::arange(x.size(1)), at::ones({16})).cos();
              return attend(x * kept->slice(0, 0, x.size(1)));
            });
          },
          tokens())
      .stateful();
  table
      .made(
          "keys_of_earlier_calls", exact,
          [] {
            auto kept = std::make_shared<Tensor>();
            return Model([kept](const Tensor& x) {
              auto keys = kept->defined() ? at::cat({*kept, x}, 1) : x;
              *kept = x.detach();
              const auto past = keys.size(1) - x.size(1);
              auto mask =
                  at::arange(keys.size(1)).unsqueeze(0).le(at::arange(past, keys.size(1)).unsqueeze(1));
              return merge(sdpa(heads(x), heads(keys), heads(keys), mask));
            });
          },
          tokens())
      .no_gradients()
      .stateful();
  table
      .made(
          "step_cache_by_size", exact,
          [] {
            auto kept = std::make_shared<Tensor>();
            return Model([kept](const Tensor& x) {
              auto y = attend(x);
              if (kept->defined() && kept->size(1) == x.size(1)) y = y + *kept;
              *kept = y.detach();
              return y;
            });
          },
          tokens())
      .no_gradients()
      .stateful();
}

void views(Table& table) {
  table.kind("view");
  using Step = std::function<void(Tensor&, const Tensor&)>;  // writes to y, which was made of x
  const std::vector<std::pair<std::string, Step>> writes{
      {"first_token", [](Tensor& y, const Tensor& x) { y.select(1, 0).copy_(x.mean(1)); }},
      {"last_token_added", [](Tensor& y, const Tensor&) { y.select(1, -1).add_(1); }},
      {"slice", [](Tensor& y, const Tensor&) { y.slice(1, 1).mul_(2); }},
      {"slice_of_slice", [](Tensor& y, const Tensor&) { y.slice(1, 1).slice(1, 1).mul_(2); }},
      {"every_second", [](Tensor& y, const Tensor&) { y.slice(1, 0, y.size(1), 2).fill_(3); }},
      {"each_token",
       [](Tensor& y, const Tensor& x) {
         for (int64_t t = 0; t < x.size(1); ++t) y.select(1, t).copy_(x.select(1, t) * (1.0 + 0.1 * t));
       }},
      {"unbound", [](Tensor& y, const Tensor&) { y.unbind(1)[0].zero_(); }},
      {"channel", [](Tensor& y, const Tensor&) { y.select(2, 3).zero_(); }},
      {"transposed", [](Tensor& y, const Tensor&) { y.transpose(1, 2).slice(2, 1).mul_(-1); }},
      {"flat", [](Tensor& y, const Tensor&) { y.view(-1).slice(0, 5, 25).zero_(); }},
      {"diagonal", [](Tensor& y, const Tensor&) { y.diagonal(0, 1, 2).fill_(2); }},
      {"strided",
       [](Tensor& y, const Tensor&) {
         y.as_strided({2, 3}, {1, 2}, 4).add_(1);
       }},
      {"contiguous_is_itself", [](Tensor& y, const Tensor&) { y.contiguous().add_(1); }},
      {"contiguous_is_a_copy", [](Tensor& y, const Tensor&) { y.transpose(1, 2).contiguous().add_(1); }},
      {"detached", [](Tensor& y, const Tensor&) { y.detach().slice(1, 1).add_(1); }},
      {"read_after_write",
       [](Tensor& y, const Tensor&) {
         auto token = y.select(1, 0);
         y.add_(1);
         y.add_(token.unsqueeze(1).clone());
       }},
      {"by_index",
       [](Tensor& y, const Tensor& x) {
         y.index_put_({Tensor(), at::arange(x.size(1) - 1) + 1}, x.slice(1, 0, -1));
       }},
  };
  for (auto& [name, write] : writes) {
    const auto of = name == "diagonal" || name == "flat" || name == "strided"
                        ? std::vector<int64_t>{37, 16, 8, 5, 3}
                        : std::vector<int64_t>{37, 16, 8, 5, 3, 2, 1};
    auto module = [write = write](const Tensor& x) {
      auto y = x * 2;
      write(y, x);
      return y + attend(y);
    };
    table.add("written_" + name, exact, module, tokens()).of(of).no_gradients();
    if (name == "detached" || name == "by_index" || name == "unbound") continue;  // LibTorch refuses
    table.add("written_with_gradient_" + name, exact, module, tokens()).of({16, 5});
  }
  table
      .add(
          "guidance_in_the_forward", exact,
          [](const Tensor& x, const Tensor& w) {
            at::AutoGradMode on(true);
            auto z = x.detach().requires_grad_();
            auto g = torch::autograd::grad({at::matmul(z, w).pow(2).sum()}, {z})[0];
            return attend(x - 0.1 * g / g.norm());
          },
          tokens({{16, 16}}))
      .no_gradients();
  table
      .add(
          "gradient_of_a_gradient", exact,
          [](const Tensor& x, const Tensor& w) {
            at::AutoGradMode on(true);
            auto z = x.detach().requires_grad_();
            auto first =
                torch::autograd::grad({at::matmul(z, w).tanh().pow(2).sum()}, {z}, {}, true, true)[0];
            return torch::autograd::grad({first.pow(2).sum()}, {z})[0];
          },
          tokens({{16, 16}}))
      .no_gradients();
  table.add(
      "hook_that_scales", exact,
      [](const Tensor& x, const Tensor& w) {
        auto y = at::matmul(x, w);
        if (y.requires_grad()) y.register_hook([](Tensor g) { return g / (1 + g.norm()); });
        return attend(y);
      },
      tokens({{16, 16}}));
  table.add(
      "sign_straight_through", exact,
      [](const Tensor& x, const Tensor& w) {
        struct Sign : torch::autograd::Function<Sign> {
          static Tensor forward(torch::autograd::AutogradContext*, const Tensor& y) { return y.sign(); }
          static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                         torch::autograd::variable_list g) {
            return {g[0] / (1 + g[0].abs().sum(1, true))};
          }
        };
        return attend(Sign::apply(at::matmul(x, w)));
      },
      tokens({{16, 16}}));
  table
      .add(
          "into_given_memory", exact,
          [](const Tensor& x) {
            at::NoGradGuard no_grad;
            auto scores = at::empty({2, x.size(1), x.size(1)}, x.options()),
                 twice = at::empty({0}, x.options());
            at::bmm_out(scores, x, x.transpose(1, 2));
            at::cat_out(twice, {x, x}, 1);
            return attend(at::bmm(scores, x) / 100 + twice.slice(1, x.size(1)));
          },
          tokens())
      .no_gradients();
}

}  // namespace sequence_modules
