#include <ATen/ThreadLocalState.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include <thread>

using wanpar::Attention;
using wanpar::Operator;
using wanpar::OperatorHandler;
using wanpar::Scope;
using wanpar::Tensors;

namespace interceptor_test {
namespace {

/// Counts what passes by and adds its number to each attention's result.
struct Adder : OperatorHandler {
  explicit Adder(double number) : number(number) {}
  Tensors around(const Operator& op, const Next& next) override {
    ++operators;
    if (!wanpar::as_attention(op)) return next(op);
    ++attentions;
    return {next(op)[0] * 10 + number};
  }
  double number;
  int attentions = 0, operators = 0;
};

struct Thrower : OperatorHandler {
  Tensors around(const Operator& op, const Next& next) override {
    if (wanpar::as_attention(op)) throw wanpar::Error("refused");
    return next(op);
  }
};

struct PassesOn : OperatorHandler {
  Tensors around(const Operator& op, const Next& next) override { return next(op); }
};

at::Tensor attend() {
  auto x = at::ones({1, 1, 2, 4});
  return at::scaled_dot_product_attention(x, x, x);
}

bool is(const at::Tensor& x, double value) { return torch::allclose(x, at::full_like(x, value)); }

}  // namespace

TEST_CASE(
    "handlers stack: the outermost scope is around the others, and all is plain again when scopes end") {
  Adder outer(1), inner(2);
  CHECK(is(attend(), 1));
  {
    Scope a(outer);
    CHECK(is(attend(), 11));
    {
      Scope b(inner);
      CHECK(is(attend(), 121));
    }
    CHECK(is(attend(), 11));
  }
  CHECK(is(attend(), 1));
  CHECK(outer.attentions == 3);
  CHECK(inner.attentions == 1);
}

TEST_CASE("a handler that is for some operators meets those alone") {
  struct Sines : OperatorHandler {
    std::vector<std::string> operators() const override { return {"aten::sin"}; }
    Tensors around(const Operator& op, const Next& next) override { return {next(op)[0] + 10}; }
  } sines;
  Scope scope(sines);
  auto x = at::zeros({2});
  CHECK(is(x.sin(), 10));
  CHECK(is(x.cos(), 1));
  CHECK(is(attend(), 1));
}

TEST_CASE("a handler that is for an operator that there is none of is told so, and nothing is left of it") {
  struct Misspelled : OperatorHandler {
    std::vector<std::string> operators() const override { return {"aten::sin", "aten::sinus"}; }
    Tensors around(const Operator& op, const Next& next) override { return next(op); }
  } misspelled;
  CHECK_THROWS_WITH_AS(Scope{misspelled}, doctest::Contains("names aten::sinus"), wanpar::Error);
  CHECK(wanpar::handlers().empty());
  CHECK(is(attend(), 1));
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
    bool intercepts_operators() const override { return is_looking; }
    bool is_looking = false;
  } quiet(3);
  auto operators_within = [&] {
    auto before = quiet.operators - quiet.attentions;
    Scope scope(quiet);
    CHECK(is(attend(), 13));
    return quiet.operators - quiet.attentions - before;
  };
  CHECK(operators_within() == 0);
  quiet.is_looking = true;
  CHECK(operators_within() > 0);
  quiet.is_looking = false;
  CHECK(operators_within() == 0);
}

TEST_CASE(
    "a handler may go on with other inputs, or put its own computation in the place of the operator's") {
  struct Doubles : OperatorHandler {
    Tensors around(const Operator& op, const Next& next) override {
      if (op.name == "aten::neg") {
        auto other = op;
        other.inputs[0] = op.inputs[0] * 2;
        return next(other);
      }
      if (op.name == "aten::max" || op.name == "aten::unbind") {
        auto other = op;
        other.compute = [&](const Tensors& inputs) {
          auto outputs = op.compute(inputs);
          for (auto& output : outputs) output = output + 10;
          return outputs;
        };
        return next(other);
      }
      if (op.name == "aten::split") return {op.inputs[0] + 1};  // a list, and no operator has run
      return next(op);
    }
  } doubles;
  PassesOn inner;
  Scope outer(doubles), within(inner);
  auto x = at::arange(4.0);
  CHECK(at::equal(x.neg(), at::arange(4.0).mul(-2)));
  auto [values, indices] = x.max(0);
  CHECK(values.item<double>() == 13);
  CHECK(indices.item<int64_t>() == 13);
  CHECK(x.unbind()[3].item<double>() == 13);
  auto parts = x.split(2);
  CHECK(parts.size() == 1);
  CHECK(at::equal(parts[0], x + 1));
}

TEST_CASE("a handler that gives something else than the operator does is an error that names it") {
  struct Wrong : OperatorHandler {
    Tensors around(const Operator& op, const Next& next) override {
      if (op.name == "aten::mul_") return {op.inputs[0] * 7};
      if (op.name == "aten::add" && op.inputs.size() == 3) return {op.inputs[0] + 1};  // out=
      if (op.name == "aten::sub") return {};
      if (op.name == "aten::cat") {
        auto other = op;
        other.inputs.push_back(op.inputs[0]);
        return next(other);
      }
      return next(op);
    }
  } wrong;
  Scope scope(wrong);
  auto x = at::ones({2}), out = at::zeros({2});
  CHECK_THROWS_WITH_AS(x.mul_(3), doctest::Contains("aten::mul_: a handler put another tensor"),
                       wanpar::Error);
  CHECK_THROWS_WITH_AS(at::add_out(out, x, x), doctest::Contains("aten::add: a handler put another"),
                       wanpar::Error);
  CHECK_THROWS_WITH_AS(x - x, doctest::Contains("gave 0 tensors where the operator gives 1"), wanpar::Error);
  CHECK_THROWS_WITH_AS(at::cat({x, x}), doctest::Contains("with 3 tensors where the operator takes 2"),
                       wanpar::Error);
  CHECK(is(x.add_(1), 2));
}

TEST_CASE("handlers find one another by their types, and each event goes to those that take it") {
  struct Tokens : wanpar::TokenHandler {
    at::Tensor split_sequence(at::Tensor x, int64_t, std::initializer_list<wanpar::Companion>,
                              const std::optional<wanpar::TokenGrid>&) override {
      return x + 1;
    }
    at::Tensor gather_sequence(at::Tensor x, int64_t) override { return x - 1; }
    at::Tensor unshard(at::Tensor x) override { return x * 2; }
  } tokens;
  struct Blocks : wanpar::BlocksHandler {
    at::Tensor run_blocks(const wanpar::BlockStack& blocks, at::Tensor x, Tensors side,
                          const NextBlocks& next) override {
      return next(blocks, x, side) + 100;
    }
  } blocks;
  CHECK_FALSE(wanpar::innermost<Tokens>());
  Scope a(tokens), b(blocks);
  CHECK(wanpar::innermost<Tokens>() == &tokens);
  CHECK(wanpar::innermost<wanpar::BlocksHandler>() == &blocks);
  CHECK_FALSE(wanpar::innermost<OperatorHandler>());
  CHECK(wanpar::handlers().size() == 2);
  auto x = at::ones({2});
  CHECK(is(wanpar::split_sequence(x, 0), 2));
  CHECK(is(wanpar::gather_sequence(x, 0), 0));
  CHECK(is(wanpar::unshard(x), 2));
  wanpar::BlockStack stack{3, [](int64_t i, at::Tensor y, const Tensors&) { return y + i; }};
  CHECK(is(wanpar::run_blocks(stack, x, Tensors{}), 104));
  CHECK(is(wanpar::run_blocks(stack, x, Tensors{}, [](at::Tensor y) { return y * 2; }), 208));
}

TEST_CASE("a handler is shown every argument that an operator's schema names") {
  struct Counting : OperatorHandler {
    Tensors around(const Operator& op, const Next& next) override {
      CHECK(op.arguments.size() == op.handle.schema().arguments().size());
      ++operators;
      return next(op);
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
  PassesOn passes_on;
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
  auto gradient = [&](wanpar::Handler* handler) {
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
  PassesOn passes_on;
  CHECK(torch::equal(gradient(nullptr), gradient(&passes_on)));
}

}  // namespace interceptor_test
