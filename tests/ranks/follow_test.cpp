// Verdicts on split tokens: what a rank decides must not hang on how many of them it happens to hold.
#include <ATen/autocast_mode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/extend/module/interceptor.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Mesh;
using wanpar::Model;

namespace follow_test {
namespace {

using Step = std::function<at::Tensor(at::Tensor)>;  // of [1, tokens, 16], split along 1

at::Tensor random(std::vector<int64_t> shape, int seed = 0) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed + 7);
  return at::randn(shape, generator);
}

at::Tensor attend(const at::Tensor& t) {
  auto heads = t.unflatten(-1, {4, -1}).transpose(1, 2);
  return at::scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2);
}

/// The step, and attention over all tokens behind it.
Model with_attention(const Step& step) {
  return Model([step](const at::Tensor& t) { return attend(step(t)); });
}

Model split(Model module, const Mesh& mesh, int64_t arg = 0) {
  return module | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                             .ring = mesh["ring"],
                                             .split = {{.arg = arg, .dim = 1}},
                                             .min_share = 1});
}

/// All tokens around a ring, and all traded for heads.
void on_meshes(const std::function<void(Mesh&)>& claim, const std::vector<int>& sizes = {2, 3, 4}) {
  on_worlds(
      [&](Communicator world) {
        for (int64_t ulysses : {1, world.size()}) {
          Mesh mesh(world, {{"ring", world.size() / ulysses}, {"ulysses", ulysses}});
          claim(mesh);
        }
      },
      sizes);
}

std::string text(const Mesh& mesh, int64_t tokens) {
  return fmt::format("ring {} x ulysses {}, {} tokens", mesh.size("ring"), mesh.size("ulysses"), tokens);
}

}  // namespace

TEST_CASE("autocast casts queries and keys of a first pass without losing that they are split") {
  on_meshes([](Mesh& mesh) {
    at::NoGradGuard no_grad;
    auto weight = random({16, 16}, 1);
    // Queries and keys are normalised in float32, values come from a layer that autocast runs in half.
    Model module([=](const at::Tensor& t) {
      auto value = at::linear(t, weight).unsqueeze(1);
      auto query = at::layer_norm(t.to(at::kFloat), {16}).unsqueeze(1);
      return at::scaled_dot_product_attention(query, query, value).squeeze(1).to(at::kFloat);
    });
    at::autocast::set_autocast_enabled(at::kCPU, true);
    auto wrapped = split(module, mesh);
    for (int pass = 0; pass < 2; ++pass)
      require_close(wrapped(random({1, 11, 16})), module(random({1, 11, 16})), 0.1, text(mesh, 11));
    at::autocast::set_autocast_enabled(at::kCPU, false);
  });
}

TEST_CASE("split queries know their rows in attention to whole keys: causal, and under a mask of all rows") {
  on_meshes([](Mesh& mesh) {
    at::NoGradGuard no_grad;
    for (int64_t tokens : {12, 11, 3, 1})
      for (int64_t words : {12, 5})
        for (bool balanced : {false, true})
          for (int kind = 0; kind < 4; ++kind) {
            std::optional<at::Tensor> mask;
            if (kind == 1) mask = random({tokens, words}, 3);
            if (kind == 2)
              mask = random({1, 1, tokens, words}, 3).gt(-0.5).logical_or(at::arange(words).eq(0));
            if (kind == 3) mask = random({1, words}, 3);
            Model module([=](const at::Tensor& t, const at::Tensor& text) {
              auto whole = text.unsqueeze(1), query = t.unsqueeze(1);
              auto seen = at::scaled_dot_product_attention(query, whole, whole, mask, 0, !mask).squeeze(1);
              return attend(seen);
            });
            Model wrapped = module | wanpar::sequence_parallel({.ulysses = mesh["ulysses"],
                                                                .ring = mesh["ring"],
                                                                .split = {{.arg = 0, .dim = 1}},
                                                                .balance_causal = balanced,
                                                                .min_share = 1});
            auto x = random({1, tokens, 16}), context = random({1, words, 16}, 1);
            for (int pass = 0; pass < 2; ++pass)
              require_close(wrapped(x, context), module(x, context), 1e-5,
                            fmt::format("{}, {} words, kind {}", text(mesh, tokens), words, kind));
          }
  });
}

TEST_CASE("a mask made for as many rows as there are tokens is one of all rows in attention to whole keys") {
  on_meshes([](Mesh& mesh) {
    at::NoGradGuard no_grad;
    auto module = with_attention([](at::Tensor t) {
      auto words = at::ones({1, 1, 5, 16}), mask = at::ones({t.size(1), 5});
      return at::scaled_dot_product_attention(t.unsqueeze(1), words, words, mask).squeeze(1);
    });
    auto x = random({1, 24, 16});
    require_close(split(module, mesh)(x), module(x), 1e-5, text(mesh, 24));
  });
}

TEST_CASE("gradients of gradients are refused, not given without some of their terms") {
  on_meshes([](Mesh& mesh) {
    auto wrapped = split(with_attention([](at::Tensor t) { return t * t; }), mesh);
    auto x = random({1, 8, 16}).requires_grad_();
    auto loss = wrapped(x).pow(2).sum();
    require_error([&] { torch::autograd::grad({loss}, {x}, {}, true, true); }, "without create_graph");
    auto ring = [&](at::Tensor t) { return at::scaled_dot_product_attention(t, t, t); };
    Model alone = Model(ring) | wanpar::sequence_parallel(
                                    {.ring = mesh["ring"], .split = {{.arg = 0, .dim = 2}}, .min_share = 1});
    if (mesh.size("ring") == 1) return;
    auto y = random({1, 2, 8, 16}).requires_grad_();
    require_error([&] { torch::autograd::grad({alone(y).pow(2).sum()}, {y}, {}, true, true); },
                  "without create_graph");
  });
}

TEST_CASE("a part of the tokens is that of the whole sequence") {
  auto kernel = at::ones({16, 16, 1});
  const std::vector<Step> parts = {
      [](at::Tensor t) { return t.slice(1, 0, 5); },
      [](at::Tensor t) { return t.narrow(1, 0, 1); },
      [](at::Tensor t) { return t.slice(1, -4); },
      [](at::Tensor t) { return t.slice(1, 0, std::nullopt, 2); },
      [](at::Tensor t) {
        return t.repeat({1, 2, 1});
      },
      [=](at::Tensor t) { return at::conv1d(t.transpose(1, 2), kernel, {}, 2).transpose(1, 2); },
      [=](at::Tensor t) { return at::conv1d(t.transpose(1, 2), kernel, {}, 3, 1).transpose(1, 2); }};
  auto all = with_attention([](at::Tensor t) { return t.slice(1, 0).slice(1, -12, 12); });
  on_meshes(
      [&](Mesh& mesh) {
        at::NoGradGuard no_grad;
        for (auto& part : parts)
          for (int64_t tokens : {10, 11, 6}) {
            auto wrapped = split(with_attention(part), mesh);
            auto x = random({1, tokens, 16});
            for (int pass = 0; pass < 3; ++pass)
              require_close(wrapped(x), with_attention(part)(x), 1e-5, text(mesh, tokens));
          }
        for (int64_t tokens : {12, 11, 2})
          require_close(split(all, mesh)(random({1, tokens, 16})), all(random({1, tokens, 16})), 1e-5,
                        text(mesh, tokens));
      },
      {2, 3, 6});
}

TEST_CASE("what a module makes for each token is made for all of them, and one thing for all is left alone") {
  auto table = random({40, 16}, 1), weight = random({96, 8}, 2);
  const std::vector<Step> positions = {
      [](at::Tensor t) { return t + at::arange(t.size(1)).unsqueeze(1); },
      [=](at::Tensor t) { return t + at::embedding(table, at::arange(t.size(1))); },
      [=](at::Tensor t) { return t + table.slice(0, 0, t.size(1)); },
      [=](at::Tensor t) { return t + table.narrow(0, 0, t.size(1)).mul(2).unsqueeze(0); },
      [=](at::Tensor t) { return t + table.index_select(0, at::arange(t.size(1)) + 1); },
      [](at::Tensor t) {
        return at::matmul(at::ones({1, t.size(1), 4, 4}), t.unflatten(-1, {4, 4})).flatten(2);
      },
      [](at::Tensor t) { return t * at::arange(t.size(1)).unsqueeze(1).expand_as(t); },
      [](at::Tensor t) {
        auto words = at::ones({1, 1, 5, 16}), mask = at::ones({t.size(1), 5}).cumsum(0);
        return at::scaled_dot_product_attention(t.unsqueeze(1), words, words, mask).squeeze(1);
      }};
  const std::vector<Step> constants = {
      [](at::Tensor t) { return t * 2 + at::scalar_tensor(3.0); },
      [=](at::Tensor t) { return t + table.select(0, 3) + table.slice(1, 0, 16).select(0, 1).unsqueeze(0); },
      // The modulation of a diffusion transformer, by an embedding of the timestep.
      [=](at::Tensor t) {
        auto timestep = at::linear(at::arange(8).to(at::kFloat).cos().unsqueeze(0), weight);
        return t * timestep.unflatten(1, {6, 16}).chunk(6, 1)[2];
      }};
  on_meshes([&](Mesh& mesh) {
    at::NoGradGuard no_grad;
    for (int64_t tokens : {mesh.world().size() + 0, mesh.world().size() + 1, mesh.world().size() - 1}) {
      auto x = random({1, tokens, 16});
      auto all = positions;
      all.insert(all.end(), constants.begin(), constants.end());
      for (auto& step : all)
        require_close(split(with_attention(step), mesh)(x), with_attention(step)(x), 1e-4,
                      text(mesh, tokens));
    }
  });
}

TEST_CASE("a view that leaves another number free than the tokens' may count windows") {
  auto windows = [](const at::Tensor& t, std::vector<int64_t> shape) {
    auto each = t.reshape(shape);
    return attend(at::scaled_dot_product_attention(each, each, each).reshape({1, -1, 16}));
  };
  on_meshes([&](Mesh& mesh) {
    at::NoGradGuard no_grad;
    const int64_t share = 4, tokens = 4 * share * mesh.world().size();
    auto x = random({1, tokens, 16});
    for (auto shape : {std::vector<int64_t>{1, -1, share, 16}, {-1, share, 16}, {1, share, -1, 16}}) {
      Model module([=](const at::Tensor& t) { return windows(t, shape); });
      require_close(split(module, mesh)(x), module(x), 1e-5, "windows");
    }
    Model unflat([](const at::Tensor& t) { return attend(t.unflatten(1, {-1, 4}).flatten(1, 2)); });
    require_close(split(unflat, mesh)(x), unflat(x), 1e-5, "unflattened");
    // The free number is the tokens', or one that stands for heads.
    Model heads([](const at::Tensor& t) {
      auto y = t.view({1, -1, 4, 4}).reshape({1, -1, 16}).view({t.size(0), t.size(1), -1, 8}).flatten(2);
      return attend(y.view({y.size(0), y.size(1), 16}));
    });
    require_close(split(heads, mesh)(x), heads(x), 1e-5, "heads");
  });
}

TEST_CASE("a rank that fails is named by the others at their next exchange") {
  on_meshes([](Mesh& mesh) {
    at::NoGradGuard no_grad;
    auto& world = mesh.world();
    // One rank fails: before attention, or behind it.
    for (int at : {0, 1}) {
      auto failing = [&](const at::Tensor& t) {
        auto fail = [&](int here) {
          if (here == at && world.rank() == 0) throw std::runtime_error("a failure of its own");
        };
        auto x = wanpar::split_sequence(t, 1);
        fail(0);
        x = attend(x);
        fail(1);
        return wanpar::gather_sequence(x, 1);
      };
      Model wrapped =
          Model(failing) | wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]});
      std::string said;
      try {
        wrapped(random({1, 9, 16}));
      } catch (const std::exception& error) {
        said = error.what();
      }
      auto expected = world.rank() == 0 ? "a failure of its own" : "failed: a failure of its own";
      require(said.find(expected) != std::string::npos, fmt::format("'{}' says '{}'", said, expected));
    }
    world.barrier();
  });
}

TEST_CASE("what ranks do not have alike is refused in a first pass, and later passes ask nothing") {
  on_meshes([](Mesh& mesh) {
    at::NoGradGuard no_grad;
    const auto rank = mesh.world().rank();
    auto refuses = [&](auto step, const char* why) {
      Model module([step](const at::Tensor& t) { return attend(step(t)); });
      require_error([&] { split(module, mesh)(random({1, 12, 16})); }, why);
    };
    refuses([rank](const at::Tensor& t) { return t * (rank == 0 ? 1.0 : 2.0); },
            "aten::mul is given a number, which is 1 on rank 0 and 2 on rank 1");
    refuses([rank](const at::Tensor& t) { return t.clamp(-1.0 - rank); },
            "aten::clamp is given a number, which is");
    refuses([rank](const at::Tensor& t) { return t + at::full({16}, rank, t.options()); },
            "aten::add meets a tensor [16]");
    refuses([rank](const at::Tensor& t) { return rank == 0 ? t.tanh() : t.sigmoid(); }, "different ways");

    wanpar::Recording recording;
    Model counted = Model(attend) | wanpar::sequence_parallel({.ulysses = recording(mesh["ulysses"]),
                                                               .ring = recording(mesh["ring"]),
                                                               .split = {{.arg = 0, .dim = 1}}});
    auto gathers = [&] {
      recording.clear();
      counted(random({1, 9, 16}));
      return recording.totals()[wanpar::Operation::all_gather].calls;
    };
    const auto axes = (mesh["ulysses"].size() > 1) + (mesh["ring"].size() > 1);
    require(gathers() == 5 * axes, "two of what is split, two to compare, and one of the result");
    require(gathers() == axes, "later passes compare nothing");
    mesh.world().barrier();
  });
}

TEST_CASE("what attends or reaches over split tokens in any other way than attention is given all of them") {
  auto weight = random({48, 16}, 1), bias = random({48}, 2), out = random({16, 16}, 3),
       kernel = random({16, 16, 3}, 4);
  auto channels_first = [](const std::function<at::Tensor(at::Tensor)>& step) -> Step {
    return [step](at::Tensor t) { return step(t.transpose(1, 2)).transpose(1, 2); };
  };
  const std::vector<Step> steps = {
      [](at::Tensor t) {
        return at::einsum("bqk,bkc->bqc", {at::einsum("bqc,bkc->bqk", {t, t}).softmax(-1), t});
      },
      [](at::Tensor t) { return at::matmul(at::matmul(t, t.transpose(1, 2)).softmax(-1), t); },
      [](at::Tensor t) {
        auto x = t.unsqueeze(1);
        return std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(x, x, x)).squeeze(1);
      },
      [=](at::Tensor t) {
        return std::get<0>(
            at::_native_multi_head_attention(t, t, t, 16, 4, weight, bias, out, bias.slice(0, 0, 16)));
      },
      [=](at::Tensor t) {
        return at::conv_tbc(t.transpose(0, 1), kernel.transpose(0, 2), at::zeros({16}), 1).transpose(0, 1);
      },
      channels_first([=](at::Tensor t) {
        return at::_convolution(t, kernel, {}, {2}, {1}, {1}, false, {0}, 1, false, false, false, false);
      }),
      channels_first(
          [=](at::Tensor t) { return at::convolution(t, kernel, {}, {1}, {1}, {1}, true, {0}, 1); }),
      channels_first([=](at::Tensor t) { return at::conv_transpose1d(t, kernel, {}, 1, 1); }),
      channels_first([](at::Tensor t) {
        return at::reflection_pad1d(t, {1, 1});
      }),
      channels_first([](at::Tensor t) {
        return at::replication_pad1d(t, {1, 1});
      }),
      channels_first([](at::Tensor t) {
        return at::pad(t, {1, 1}, "reflect");
      }),
      channels_first([](at::Tensor t) {
        return at::pad(t, {1, 1}, "replicate");
      }),
      channels_first([](at::Tensor t) {
        return at::pad(t, {1, 1}, "circular");
      }),
      channels_first([](at::Tensor t) {
        return at::_pad_circular(t, {1, 1});
      })};
  on_meshes([&](Mesh& mesh) {
    at::NoGradGuard no_grad;
    auto x = random({1, 24, 16});
    for (auto& step : steps)
      require_close(split(with_attention(step), mesh)(x), with_attention(step)(x), 1e-5,
                    fmt::format("step {}", &step - steps.data()));
    auto pointwise = with_attention(channels_first([](at::Tensor t) {
      return at::_convolution(t, at::ones({16, 16, 1}), {}, {1}, {0}, {1}, false, {0}, 1, false, false, false,
                              false);
    }));
    require_close(split(pointwise, mesh)(random({1, 24, 16})), pointwise(random({1, 24, 16})), 1e-4,
                  "a kernel of one");
  });
}

TEST_CASE("a backward that is called within a scope is the same, and does not come back to the handlers") {
  struct Counting : wanpar::OperatorHandler {
    wanpar::Tensors around(const wanpar::Operator& op, const Next& next) override {
      attentions += wanpar::as_attention(op).has_value();
      return next(op);
    }
    int attentions = 0;
  };
  auto weight = random({16, 16}, 1).to(at::kDouble).requires_grad_();
  auto forward = [&](const at::Tensor& x) {
    auto y = at::linear(wanpar::split_sequence(x, 1), weight);
    return wanpar::gather_sequence(attend(at::layer_norm(y, {16}).tanh()), 1);
  };
  auto inside = [&](const at::Tensor& x) {  // as a module does that trains itself
    return torch::autograd::grad({forward(x).pow(2).sum()}, {x, weight});
  };
  auto x = random({1, 11, 16}).to(at::kDouble).requires_grad_();
  auto expected = inside(x);
  on_meshes([&](Mesh& mesh) {
    auto mine = x.detach().requires_grad_();
    std::vector<at::Tensor> gradients;
    Counting counting;
    wanpar::SequenceParallelOptions options{.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1};
    Model within = Model([&](const at::Tensor& t) {
                     gradients = inside(t);
                     return t;
                   }) |
                   wanpar::sequence_parallel(options);
    Model around = Model(forward) | wanpar::sequence_parallel(options);
    wanpar::Scope scope(counting);
    for (int pass = 0; pass < 2; ++pass) {
      within(mine);
      for (size_t i = 0; i < 2; ++i)
        require_close(gradients[i], expected[i], 1e-9, text(mesh, 11) + ", within");
      gradients = torch::autograd::grad({around(mine).pow(2).sum()}, {mine, weight});
      for (size_t i = 0; i < 2; ++i)
        require_close(gradients[i], expected[i], 1e-9, text(mesh, 11) + ", around");
    }
    auto attends_in_backward = [&](const at::Tensor& t) {
      auto y = forward(t);
      y.register_hook([](at::Tensor gradient) { return attend(gradient); });
      return torch::autograd::grad({y.sum()}, {t})[0];
    };
    Model attending = Model(attends_in_backward) | wanpar::sequence_parallel(options);
    require_close(attending(mine), attends_in_backward(mine), 1e-9, "an attention within a backward");
    require(counting.attentions <= 8,
            fmt::format("{} attentions in six forwards, one of one rank and one hook", counting.attentions));
  });
}

}  // namespace follow_test
