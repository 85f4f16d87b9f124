#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <wanpar/core/error.hpp>
#include <wanpar/core/mesh.hpp>
#include <wanpar/extend/module/attention.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <cmath>
#include <functional>
#include <limits>

#include "worlds.hpp"

using at::Tensor;
using wanpar::Attention;
using wanpar::Mesh;
using wanpar::Model;
using wanpar::Tensors;

namespace attention_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor random(std::vector<int64_t> shape, int seed = 0) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed + 7);
  return at::randn(shape, generator, at::kDouble);
}

/// [batch, tokens, channels] to [batch, heads, tokens, channels of a head].
Tensor heads(const Tensor& x, int64_t n = 4) { return x.unflatten(-1, {n, -1}).transpose(1, 2); }
Tensor joined(const Tensor& x) { return x.transpose(1, 2).flatten(2); }

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask = {},
              bool grouped = false) {
  return at::scaled_dot_product_attention(q, k, v, mask, 0, false, {}, grouped);
}

/// Self-attention as it is defined, which holds for masks by which LibTorch's own backward goes wrong.
Tensor by_definition(const Tensor& x, const Tensor& mask) {
  auto h = heads(x);
  auto scores = at::matmul(h, h.transpose(-2, -1)) / std::sqrt(static_cast<double>(h.size(-1))) + mask;
  return joined(at::matmul(scores.softmax(-1), h));
}

Tensor self(const Tensor& x, const Tensor& mask) {
  auto h = heads(x);
  return joined(attend(h, h, h, mask));
}

/// Rows before `n` are masked as a whole by one number, the others not at all.
Tensor padding(int64_t tokens, int64_t n, double number) {
  return at::zeros({tokens, tokens}, at::kDouble).masked_fill(at::arange(tokens).unsqueeze(1).lt(n), number);
}

void on_meshes(const std::function<void(Mesh&, const std::string&)>& claim) {
  on_worlds(
      [&](wanpar::Communicator world) {
        for (int64_t ulysses = 1; ulysses <= world.size(); ulysses *= 2) {
          if (world.size() % ulysses) continue;
          Mesh mesh(world, {{"ring", world.size() / ulysses}, {"ulysses", ulysses}});
          claim(mesh, fmt::format("ulysses {} x ring {}", ulysses, mesh.size("ring")));
        }
      },
      {1, 2, 3, 4});
}

/// The module with the first `split` arguments split along their tokens, dimension 1.
Model over(const Mesh& mesh, const Model& module, size_t split = 1) {
  wanpar::SequenceParallelOptions options{.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1};
  for (size_t i = 0; i < split; ++i) options.split.push_back({.arg = i, .dim = 1});
  return module | wanpar::sequence_parallel(options);
}

/// The result, and the gradients of the arguments that ask for them, of a loss that weighs every element
/// differently.
Tensors gradients(Model model, Tensors arguments) {
  Tensors wanted;
  for (auto& x : arguments)
    if (x.is_floating_point() && x.requires_grad()) wanted.push_back(x = x.detach().requires_grad_());
  auto result = model.call(arguments);
  auto found = torch::autograd::grad({(result * random(result.sizes().vec(), 99)).sum()}, wanted);
  found.insert(found.begin(), result.detach());
  return found;
}

void require_relatively_close(const Tensor& actual, const Tensor& expected, double tolerance,
                              const std::string& where) {
  auto size = expected.numel() ? expected.abs().max().item<double>() : 0;
  require_close(actual, expected, tolerance * size + 1e-12, where);  // some gradients are 0
}

void require_same(const Model& wrapped, const Model& bare, const Tensors& arguments, double tolerance,
                  const std::string& where) {
  auto actual = gradients(wrapped, arguments), expected = gradients(bare, arguments);
  for (size_t i = 0; i < expected.size(); ++i)
    require_relatively_close(actual[i], expected[i], tolerance,
                             fmt::format("{}, {}", where, i ? fmt::format("gradient {}", i) : "result"));
}

struct Subject {
  std::string name;
  Model module;
  std::vector<std::vector<int64_t>> shapes;  // of the split arguments; 0 stands for the tokens
};

/// What LibTorch broadcasts, in every way that it does.
std::vector<Subject> broadcasting() {
  return {
      {"one key head",
       Model([](const Tensor& x) {
         auto k = x.slice(-1, 0, 4).unsqueeze(1);
         return joined(attend(heads(x), k, k));
       }),
       {{2, 0, 16}}},
      {"one key head, a value for each",
       Model([](const Tensor& x) {
         return joined(attend(heads(x), x.slice(-1, 0, 4).unsqueeze(1), heads(x)));
       }),
       {{2, 0, 16}}},
      {"groups of other sizes for keys and values",
       Model([](const Tensor& x) {
         return joined(
             attend(heads(x), heads(x.slice(-1, 0, 8), 2), x.slice(-1, 4, 8).unsqueeze(1), {}, true));
       }),
       {{2, 0, 16}}},
      {"groups in five dimensions",
       Model([](const Tensor& x) {
         auto q = heads(x).unflatten(1, {2, 2}), k = heads(x.slice(-1, 0, 8), 2).unsqueeze(2);
         return joined(attend(q, k, k).flatten(1, 2));
       }),
       {{2, 0, 16}}},
      {"one query head",
       Model([](const Tensor& x) {
         return joined(attend(x.slice(-1, 0, 4).unsqueeze(1), heads(x), heads(x)));
       }),
       {{2, 0, 16}}},
      {"queries of one sample",
       Model(
           [](const Tensor& x, const Tensor& a) { return x + joined(attend(heads(a), heads(x), heads(x))); }),
       {{2, 0, 16}, {1, 0, 16}}},
      {"keys of one sample",
       Model(
           [](const Tensor& x, const Tensor& a) { return x + joined(attend(heads(x), heads(a), heads(a))); }),
       {{3, 0, 16}, {1, 0, 16}}},
  };
}

}  // namespace

TEST_CASE("what broadcasts, in batch or heads, is attended to as on one rank, and has its gradients") {
  for (auto& subject : broadcasting())
    on_meshes([&](Mesh& mesh, const std::string& where) {
      auto wrapped = over(mesh, subject.module, subject.shapes.size());
      for (int64_t tokens : {8, 7, 3, 1}) {
        Tensors arguments;
        for (auto shape : subject.shapes) {
          shape[1] = tokens;
          arguments.push_back(random(shape, static_cast<int>(arguments.size())).requires_grad_());
        }
        require_same(wrapped, subject.module, arguments, 1e-9,
                     fmt::format("{}, {}, {} tokens", subject.name, where, tokens));
      }
    });
}

TEST_CASE("a mask broadcasts in every dimension, and has its gradient, beside frozen tokens too") {
  Model module(self);
  Model of_groups([](const Tensor& x, const Tensor& mask) {
    auto h = heads(x).unflatten(1, {2, 2});
    return joined(attend(h, h, h, mask).flatten(1, 2));
  });
  on_meshes([&](Mesh& mesh, const std::string& where) {
    for (int64_t n : {7, 3, 1})
      for (auto& shape : std::vector<std::vector<int64_t>>{
               {n, n}, {1, n}, {n, 1}, {4, n, n}, {2, 1, n, 1}, {2, 1, 1, 1}, {1, 4, 1, n}, {2, 4, n, n}})
        for (auto [tokens, bias] : {std::pair{true, false}, {true, true}, {false, true}}) {
          auto x = random({2, n, 16}).requires_grad_(tokens);
          auto mask = random(shape, 1).requires_grad_(bias);
          require_same(over(mesh, module), module, {x, mask}, 1e-9,
                       fmt::format("{}, {} tokens, {} dimensions", where, n, shape.size()));
        }
    for (auto& shape : std::vector<std::vector<int64_t>>{{2, 2, 1, 7, 7}, {2, 1, 2, 1, 7}, {2, 7, 1}})
      require_same(over(mesh, of_groups), of_groups,
                   {random({2, 7, 16}).requires_grad_(), random(shape, 1).requires_grad_()}, 1e-9,
                   where + ", five dimensions");
    auto seen = random({2, 1, 7, 7}, 3).gt(-0.5);
    require_same(over(mesh, module), module, {random({2, 7, 16}).requires_grad_(), seen}, 1e-9,
                 where + ", bool");
  });
}

TEST_CASE("rows that are all masked by a large number, and large logits, are merged exactly") {
  at::NoGradGuard no_grad;
  auto lowest = [](at::ScalarType type) {
    return type == at::kHalf       ? -65504.0
           : type == at::kBFloat16 ? -3.3895313892515355e38
           : type == at::kFloat    ? static_cast<double>(std::numeric_limits<float>::lowest())
                                   : std::numeric_limits<double>::lowest();
  };
  Model masked(self);
  for (auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
    on_meshes([&](Mesh& mesh, const std::string& where) {
      at::NoGradGuard of_this_thread;
      auto tolerance = type == at::kFloat    ? 1e-5
                       : type == at::kDouble ? 1e-12
                       : type == at::kHalf   ? 4e-3
                                             : 3e-2;
      for (double number : {-1e4, -6e4, lowest(type)})
        for (int64_t tokens : {37, 8, 3}) {
          Tensors arguments{random({2, tokens, 16}).to(type), padding(tokens, 2, number).to(type)};
          require_relatively_close(over(mesh, masked).call(arguments), masked.call(arguments), tolerance,
                                   fmt::format("{}, {} masked by {}", where, c10::toString(type), number));
        }
    });
  for (double size : {1., 4., 16., 64., 256.})
    on_meshes([&](Mesh& mesh, const std::string& where) {
      at::NoGradGuard of_this_thread;
      Model sharp([size](const Tensor& x) {
        auto h = heads(x * std::sqrt(size));
        return joined(attend(h, h, heads(x)));
      });
      Tensors arguments{random({1, 37, 16}).to(at::kFloat)};
      require_relatively_close(over(mesh, sharp).call(arguments), sharp.call(arguments), 1e-5,
                               fmt::format("{}, logits times {}", where, size));
    });
}

TEST_CASE("gradients of masked rows and of large logits are those of the definition") {
  Model bare(by_definition), module(self);
  on_meshes([&](Mesh& mesh, const std::string& where) {
    if (mesh.size("ring") == 1) return;  // LibTorch's own, whose backward loses log(n) beside such a number
    for (double number : {-1e4, -1e9, std::numeric_limits<double>::lowest()})
      for (double size : {1., 8.})
        for (bool bias : {false, true}) {
          auto mask = padding(11, 2, number).masked_fill(at::arange(11).lt(1), number).requires_grad_(bias);
          require_same(over(mesh, module), bare, {(random({2, 11, 16}) * size).requires_grad_(), mask}, 1e-9,
                       fmt::format("{}, masked by {}", where, number));
        }
  });
}

TEST_CASE("what is not a number stays so; a row without keys is 0") {
  at::NoGradGuard no_grad;
  for (int64_t width : {4, 2})  // of the values: LibTorch's kernel wants that of the queries
    on_meshes([&](Mesh& mesh, const std::string& where) {
      at::NoGradGuard of_this_thread;
      Model module([width](const Tensor& x, const Tensor& mask) {
        return joined(attend(heads(x), heads(x), heads(x).slice(-1, 0, width), mask));
      });
      auto x = random({1, 9, 16}).to(at::kFloat);
      x[0][4][0] = NAN;  // row 4 of one head, and the keys of all its rows
      Tensors arguments{
          x, padding(9, 2, -kInfinity).to(at::kFloat).masked_fill(at::arange(9).eq(4), -kInfinity)};
      auto expected = module.call(arguments), actual = over(mesh, module).call(arguments);
      require(at::equal(actual.isnan(), expected.isnan()), where + ": where they are not numbers");
      require_close(actual.nan_to_num(), expected.nan_to_num(), 1e-5, where);
      arguments[0] = random({1, 9, 16}).to(at::kFloat);
      actual = over(mesh, module).call(arguments);
      require(actual.slice(1, 0, 2).eq(0).all().item<bool>(), where + ": rows without keys");
      require_close(actual, module.call(arguments), 1e-5, where);
    });
}

TEST_CASE("what LibTorch would refuse is refused on every rank alike, those without tokens included") {
  using Heads = std::function<Tensor(const Tensor&)>;
  auto by = [](const Heads& keys, bool grouped = false) {
    return Model([=](const Tensor& x, const Tensor& mask) {
      auto h = heads(x), k = keys(h);
      return joined(attend(h, k, k, mask, grouped));
    });
  };
  auto same = by([](const Tensor& h) { return h; });
  Heads three = [](const Tensor& h) { return h.slice(1, 0, 3); };
  auto number = at::zeros({1, 1}, at::kDouble);
  struct Wrong {
    Model module;
    Tensor mask;
    std::string sentence;
  };
  const std::vector<Wrong> all{
      {by([](const Tensor& h) { return h.slice(-1, 0, 2); }), number, "differ in their channels"},
      {by([](const Tensor& h) { return h.to(at::kFloat); }), number, "of one floating-point dtype"},
      {by(three), number, "do not broadcast"},
      {by(three, true), number, "do not divide the query heads"},
      {same, at::zeros({3, 1, 1}, at::kDouble), "does not broadcast"},
      {same, at::zeros({1, 1}, at::kInt), "the mask must be Bool"},
      {same, at::zeros({2, 5}, at::kDouble), "give the mask whole"},
      {same, at::zeros({1, 1, 1, 1, 1}, at::kDouble), "too many dimensions"},
  };
  on_meshes([&](Mesh& mesh, const std::string&) {
    if (mesh.world().size() == 1) return;
    for (auto& wrong : all)
      for (int64_t tokens : {8, 5})
        require_error(
            [&] {
              over(mesh, wrong.module).call({random({2, tokens, 16}), wrong.mask});
            },
            wrong.sentence);
  });
}

TEST_CASE("a causal mask and one that is given attend to what both allow, over whole keys too") {
  Model module([](const Tensor& x, const Tensor& text, const Tensor& mask) {
    auto h = heads(x), t = heads(text);
    auto y = at::scaled_dot_product_attention(h, t, t, mask, 0, true);
    return joined(at::scaled_dot_product_attention(y, h, h, mask, 0, true));
  });
  auto mask = random({9, 9}, 4).masked_fill(at::arange(9).unsqueeze(1).lt(3).logical_and(at::arange(9).lt(3)),
                                            -kInfinity);
  on_meshes([&](Mesh& mesh, const std::string& where) {
    for (auto& one : {mask, mask.gt(-0.5)})
      require_same(over(mesh, module), module,
                   {random({2, 9, 16}).requires_grad_(), random({2, 9, 16}, 1), one}, 1e-9, where);
  });
}

TEST_CASE(
    "attention in parts equals its definition, in each dtype, grouped, masked, causal and of "
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

        auto got = wanpar::attention_part(call);
        auto tolerance = dtype == at::kBFloat16 ? 3e-2 : dtype == at::kHalf ? 5e-3 : 1e-5;
        CHECK((got.out.scalar_type() == dtype));
        CHECK(at::allclose(got.out.to(at::kDouble), out, tolerance, tolerance));
        CHECK(at::allclose(got.lse().to(at::kDouble), lse, tolerance, tolerance));
      }
  Attention call{at::randn({2, 3, 8}), at::randn({2, 3, 8}), at::randn({2, 3, 8})};
  CHECK(at::allclose(wanpar::attention_part(call).out,
                     at::scaled_dot_product_attention(call.query, call.key, call.value), 1e-5, 1e-5));
  call.dropout = 0.5;
  CHECK_THROWS_AS(wanpar::attention_part(call), wanpar::Error);
}

}  // namespace attention_test
