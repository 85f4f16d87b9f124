#include <ATen/ThreadLocalState.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>

#include <thread>

using wanpar::Attention;
using wanpar::Handler;
using wanpar::Scope;

namespace {

/// Counts what passes by and adds its number to each attention's result.
struct Adder : Handler {
  explicit Adder(double number) : number(number) {}
  at::Tensor attention(const Attention& call, const NextAttention& next) override {
    ++attentions;
    return next(call) * 10 + number;
  }
  void before(const wanpar::Operator&) override { ++operators; }
  double number;
  int attentions = 0, operators = 0;
};

struct Thrower : Handler {
  at::Tensor attention(const Attention&, const NextAttention&) override { throw wanpar::Error("refused"); }
};

at::Tensor attend() {
  auto x = at::ones({1, 1, 2, 4});
  return at::scaled_dot_product_attention(x, x, x);
}

bool is(const at::Tensor& x, double value) { return torch::allclose(x, at::full_like(x, value)); }

}  // namespace

TEST_CASE("handlers stack: the innermost scope is asked first, and all is plain again when scopes end") {
  Adder outer(1), inner(2);
  CHECK(is(attend(), 1));
  {
    Scope a(outer);
    CHECK(is(attend(), 11));
    {
      Scope b(inner);
      CHECK(is(attend(), 112));
    }
    CHECK(is(attend(), 11));
  }
  CHECK(is(attend(), 1));
  CHECK(outer.attentions == 3);
  CHECK(inner.attentions == 1);
}

TEST_CASE("what a handler threw is thrown on where only its text is left, and in the place of nothing else") {
  struct Unwell {};
  auto thrown_by = [](auto fail) -> std::string {
    Thrower thrower;
    Scope scope(thrower);
    try {
      try {
        attend();
      } catch (const wanpar::Error&) {
      }
      try {
        fail();
      } catch (...) {
        Scope::rethrow();
      }
    } catch (const wanpar::Error& error) {
      return std::string("Error: ") + error.what();
    } catch (const std::exception& error) {
      return error.what();
    } catch (const Unwell&) {
      return "unwell";
    }
    return "";
  };
  CHECK(thrown_by([] { throw std::runtime_error("in the interpreter:\nrefused\n"); }) == "Error: refused");
  CHECK(thrown_by([] { throw std::runtime_error("the module's own"); }) == "the module's own");
  CHECK(thrown_by([] { throw wanpar::Error("another"); }) == "Error: another");
  CHECK(thrown_by([] { throw Unwell(); }) == "unwell");
}

TEST_CASE("a handler that has nothing to learn when its scope begins meets attentions alone") {
  struct Quiet : Adder {
    using Adder::Adder;
    bool watches() const override { return is_looking; }
    bool is_looking = false;
  } quiet(3);
  auto operators_within = [&] {
    auto before = quiet.operators;
    Scope scope(quiet);
    CHECK(is(attend(), 13));
    return quiet.operators - before;
  };
  CHECK(operators_within() == 0);
  quiet.is_looking = true;
  CHECK(operators_within() > 0);
  quiet.is_looking = false;
  CHECK(operators_within() == 0);
}

TEST_CASE("a handler is shown every argument that an operator's schema names") {
  struct Counting : Handler {
    void before(const wanpar::Operator& op) override {
      CHECK(op.arguments.size() == op.handle.schema().arguments().size());
      ++operators;
    }
    int operators = 0;
  } counting;
  Scope scope(counting);
  attend();
  CHECK(counting.operators == 2);
}

TEST_CASE("an exception of a handler leaves the scopes as they were") {
  Adder outer(1);
  Thrower thrower;
  Scope a(outer);
  {
    Scope b(thrower);
    CHECK_THROWS_WITH_AS(attend(), "refused", wanpar::Error);
  }
  CHECK(is(attend(), 11));
}

TEST_CASE("operators pass by under no_grad and inference_mode, on whichever side of the scope") {
  Adder adder(3);
  {
    Scope scope(adder);
    at::NoGradGuard no_grad;
    CHECK(is(attend(), 13));
  }
  {
    c10::InferenceMode inference;
    Scope scope(adder);
    CHECK(is(attend(), 13));
  }
  {
    Scope scope(adder);
    c10::InferenceMode inference;
    CHECK(is(attend(), 13));
  }
  CHECK(adder.attentions == 3);
  CHECK(adder.operators > 6);
}

TEST_CASE("another thread is plain, also one that took over this one's dispatch state") {
  Adder adder(3);
  Scope scope(adder);
  at::ThreadLocalState state;
  bool fresh = false, taken_over = false;
  std::thread([&] { fresh = is(attend(), 1); }).join();
  std::thread([&] {
    at::ThreadLocalStateGuard guard(state);
    taken_over = is(attend(), 1);
  }).join();
  CHECK(fresh);
  CHECK(taken_over);
}

TEST_CASE("below autograd, where an exchange would lose its gradient, tensors that want one are refused") {
  Handler passes_on;
  Scope scope(passes_on);
  auto x = at::ones({1, 1, 2, 4}), weight = at::ones({4}).requires_grad_();
  at::AutoDispatchBelowAutograd below;
  CHECK_THROWS_WITH_AS(x.mul(weight), doctest::Contains("aten::mul"), wanpar::Error);
  auto value = at::ones({1, 1, 2, 4}).requires_grad_();
  CHECK_THROWS_WITH_AS(at::scaled_dot_product_attention(x, x, value), doctest::Contains("at::NoGradGuard"),
                       wanpar::Error);
  CHECK(is(x.mul(2), 2));  // as torch::ones and its like call operators
  at::NoGradGuard no_grad;
  CHECK(is(x.mul(weight), 1));
}

TEST_CASE("gradients flow through an intercepted module as through a bare one") {
  torch::nn::Linear layer(4, 4);
  auto gradient = [&](Handler* handler) {
    layer->zero_grad();
    auto run = [&] {
      auto x = layer(at::ones({1, 1, 3, 4}));
      return at::scaled_dot_product_attention(x, x, x).sum();
    };
    if (handler) {
      Scope scope(*handler);
      run().backward();
    } else {
      run().backward();
    }
    return layer->weight.grad().clone();
  };
  Handler passes_on;
  CHECK(torch::equal(gradient(nullptr), gradient(&passes_on)));
}

TEST_CASE(
    "attention with its log-sum-exp equals its definition, in each dtype, grouped, masked, causal and of "
    "nothing") {
  for (auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
    for (auto [queries, keys] : {std::pair<int64_t, int64_t>{5, 7}, {0, 3}, {3, 0}, {1, 1}, {0, 0}})
      for (int kind = 0; kind < 5; ++kind) {
        Attention call{at::randn({2, 4, queries, 8}).to(dtype),
                       at::randn({2, kind == 3 ? 2 : 4, keys, 8}).to(dtype),
                       at::randn({2, kind == 3 ? 2 : 4, keys, kind == 4 ? 6 : 8}).to(dtype)};
        call.grouped = kind == 3;
        if (kind == 1)
          call.mask = at::arange(queries)
                          .unsqueeze(1)
                          .add(at::arange(keys))
                          .remainder(3)
                          .ne(0)
                          .logical_and(at::arange(queries).ne(2).unsqueeze(1));
        if (kind == 2) call.mask = at::randn({queries, keys}).to(dtype);
        INFO(fmt::format("{}, {} queries, {} keys, kind {}", c10::toString(dtype), queries, keys, kind));

        auto q = call.query.to(at::kDouble), k = call.key.to(at::kDouble), v = call.value.to(at::kDouble);
        if (call.grouped) k = k.repeat_interleave(2, 1), v = v.repeat_interleave(2, 1);
        auto scores = at::matmul(q, k.transpose(-2, -1)) / std::sqrt(8.0);
        if (kind == 1) scores = scores.masked_fill(call.mask->logical_not(), -INFINITY);
        if (kind == 2) scores = scores + call.mask->to(at::kDouble);
        auto lse = keys ? at::logsumexp(scores, -1) : at::full({2, 4, queries}, -INFINITY, at::kDouble);
        auto out = at::matmul((scores - lse.unsqueeze(-1)).exp().nan_to_num(0.0), v);

        auto got = wanpar::attention_with_lse(call);
        auto tolerance = dtype == at::kBFloat16 ? 3e-2 : dtype == at::kHalf ? 5e-3 : 1e-5;
        CHECK((got.out.scalar_type() == dtype));
        CHECK(torch::allclose(got.out.to(at::kDouble), out, tolerance, tolerance));
        CHECK(torch::allclose(got.lse.to(at::kDouble), lse, tolerance, tolerance));
      }
  Attention call{at::randn({2, 3, 8}), at::randn({2, 3, 8}), at::randn({2, 3, 8})};
  CHECK(torch::allclose(wanpar::attention_with_lse(call).out,
                        at::scaled_dot_product_attention(call.query, call.key, call.value), 1e-5, 1e-5));
  call.dropout = 0.5;
  CHECK_THROWS_AS(wanpar::attention_with_lse(call), wanpar::Error);
}
