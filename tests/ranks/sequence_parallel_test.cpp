#include <ATen/autocast_mode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "models/attention_model.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Mesh;

namespace {

/// Each ulysses × ring mesh of a world.
void on_meshes(const std::function<void(Mesh&)>& claim) {
  on_worlds([&](Communicator world) {
    at::NoGradGuard no_grad;
    for (int64_t ulysses = 1; ulysses <= world.size(); ++ulysses) {
      if (world.size() % ulysses) continue;
      Mesh mesh(world, {{"ring", world.size() / ulysses}, {"ulysses", ulysses}});
      claim(mesh);
    }
  });
}

AttentionModel model(AttentionModelOptions options = {}) {
  torch::manual_seed(1);
  AttentionModel made(options);
  made->eval();
  return made;
}

at::Tensor random(std::vector<int64_t> shape, int seed = 0) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed + 7);
  return at::randn(shape, generator);
}

wanpar::SequenceParallelOptions over(const Mesh& mesh, std::vector<wanpar::Cut> split) {
  return {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .split = std::move(split)};
}

std::string text(const Mesh& mesh, int64_t tokens) {
  return fmt::format("ulysses {} x ring {}, {} tokens", mesh.size("ulysses"), mesh.size("ring"), tokens);
}

}  // namespace

TEST_CASE("a plain module with its tokens split gives what it gives on one rank, for any length") {
  auto plain = model();
  on_meshes([&](Mesh& mesh) {
    auto split = plain | wanpar::sequence_parallel(over(mesh, {{.arg = 0, .dim = 1}}));
    for (int64_t tokens : {24, 37, 5, 2, 1, 37}) {  // shorter than the ranks too, and two shapes in a row
      auto x = random({2, tokens, 48});
      require_close(split(x), plain(x), 1e-5, text(mesh, tokens));
    }
  });
}

TEST_CASE("attention to keys that are not split stays local, although they be as many as a rank's tokens") {
  auto plain = model();
  on_meshes([&](Mesh& mesh) {
    auto split = plain | wanpar::sequence_parallel(over(mesh, {{.arg = 0, .dim = 1}}));
    for (int64_t words : {1, 4, 9}) {
      auto x = random({1, 4 * mesh.world().size(), 48}), context = random({1, words, 48}, 1);
      require_close(split(x, context), plain(x, context), 1e-5, text(mesh, x.size(1)));
    }
  });
}

TEST_CASE("masks are given whole: over keys, over queries and keys, by head, bool or added") {
  auto plain = model();
  on_meshes([&](Mesh& mesh) {
    auto split = plain | wanpar::sequence_parallel(over(mesh, {{.arg = 0, .dim = 1}}));
    auto x = random({2, 21, 48});
    auto keys = at::arange(21).lt(15).view({1, 1, 1, 21});
    auto scores = random({2, 6, 21, 21}, 2);
    auto window = at::arange(21).unsqueeze(0).sub(at::arange(21).unsqueeze(1)).abs().lt(4);
    for (auto& mask : {keys, scores, window, window.view({1, 1, 21, 21}).expand({2, 6, 21, 21})})
      require_close(split(x, at::Tensor(), mask), plain(x, at::Tensor(), mask), 1e-5, text(mesh, 21));
  });
}

TEST_CASE("causal and grouped attention are split exactly") {
  for (auto options : {AttentionModelOptions{.causal = true}, AttentionModelOptions{.key_heads = 2},
                       AttentionModelOptions{.key_heads = 3, .causal = true}}) {
    auto plain = model(options);
    on_meshes([&](Mesh& mesh) {
      auto split = plain | wanpar::sequence_parallel(over(mesh, {{.arg = 0, .dim = 1}}));
      auto x = random({1, 19, 48});
      require_close(split(x), plain(x), 1e-5, text(mesh, 19));
    });
  }
}

TEST_CASE("a TorchScript file traced in Python is split without a change") {
  on_meshes([&](Mesh& mesh) {
    auto plain = torch::jit::load(TEST_DATA "/attention.pt");
    auto split = plain | wanpar::sequence_parallel(over(mesh, {{.arg = 0, .dim = 1}}));
    for (int64_t tokens : {37, 4}) {
      auto x = random({1, tokens, 48});
      for (int run = 0; run < 3; ++run)
        require_close(split(x), plain.forward({x}).toTensor(), 1e-5, text(mesh, tokens));
    }
  });
}

TEST_CASE("a module may say itself where its tokens begin and end") {
  auto plain = model();
  auto announcing = [&](at::Tensor x, at::Tensor position) {
    x = wanpar::split_sequence(x, 1, {{position, 0}});
    return wanpar::gather_sequence(plain(x + position), 1);
  };
  on_meshes([&](Mesh& mesh) {
    auto split = announcing | wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"]});
    auto x = random({2, 13, 48}), position = random({13, 48}, 3);
    require_close(split(x, position), announcing(x, position), 1e-5, text(mesh, 13));
  });
}

TEST_CASE("half precision is split, under autocast it is what is sent") {
  auto plain = model();
  on_meshes([&](Mesh& mesh) {
    wanpar::Recording recording;
    wanpar::SequenceParallelOptions options{.ulysses = recording(mesh["ulysses"]),
                                            .ring = recording(mesh["ring"]),
                                            .split = {{.arg = 0, .dim = 1}}};
    auto split = plain | wanpar::sequence_parallel(options);
    auto x = random({1, 24, 48});
    auto expected = plain(x);
    auto send = [&] {
      recording.clear();
      auto result = split(x);
      auto totals = recording.totals();
      return std::pair(
          result, totals[wanpar::Operation::all_to_all].bytes + totals[wanpar::Operation::exchange].bytes);
    };
    auto full = send();
    at::autocast::set_autocast_enabled(at::kCPU, true);
    auto half = send();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    require_close(half.first, expected, 0.1, text(mesh, 24));
    require(2 * half.second == full.second, fmt::format("{} bytes are twice {}", full.second, half.second));
  });
}

TEST_CASE("the payload of a layer is what the formulas say") {
  on_meshes([&](Mesh& mesh) {
    for (auto [tokens, heads] : {std::pair<int64_t, int64_t>{24, 8}, {37, 6}, {5, 3}, {3, 1}}) {
      int64_t channels = 4, ranks = mesh.world().size(), degree = mesh.size("ulysses"),
              rounds = mesh.size("ring");
      wanpar::Recording recording;
      wanpar::SequenceParallelOptions options{.ulysses = recording(mesh["ulysses"]),
                                              .ring = recording(mesh["ring"]),
                                              .split = {{.arg = 0, .dim = 2}}};
      auto attend = [](at::Tensor x) { return at::scaled_dot_product_attention(x, x, x); };
      auto split = attend | wanpar::sequence_parallel(options);
      split(random({1, heads, tokens, channels}));

      auto totals = recording.totals();
      auto sum = [&](wanpar::Operation operation) {
        return mesh.world().all_reduce(at::tensor({totals[operation].bytes})).get().item<int64_t>();
      };
      auto lengths = wanpar::even_sizes(tokens, ranks), share = wanpar::even_sizes(heads, degree);
      int64_t kept =
          0;  // what a rank trades with itself, and the tokens that never leave their ulysses group
      for (int64_t r = 0; r < ranks; ++r) kept += lengths[r] * share[r % degree];
      require(sum(wanpar::Operation::all_to_all) == (degree > 1) * 4 * 4 * channels * (tokens * heads - kept),
              "ulysses: " + text(mesh, tokens));
      require(sum(wanpar::Operation::exchange) == 2 * 4 * channels * heads * tokens * (rounds - 1),
              "ring: " + text(mesh, tokens));
    }
  });
}

TEST_CASE("what cannot be carried exactly is refused on every rank, naming the operator and the remedy") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    at::NoGradGuard no_grad;
    auto split = [&](auto module, std::vector<wanpar::Cut> cuts = {{.arg = 0, .dim = 1}}) {
      return module | wanpar::sequence_parallel({.ulysses = world, .split = std::move(cuts)});
    };
    auto x = random({1, 12, 16});
    torch::nn::MultiheadAttention attention(torch::nn::MultiheadAttentionOptions(16, 2));
    auto self_attention = [&](at::Tensor t) { return std::get<0>(attention(t, t, t)); };
    auto sequence_first = split(self_attention, {{.arg = 0, .dim = 0}});
    require_error(
        [&] {
          sequence_first(random({12, 1, 16}));
        },
        "aten::bmm multiplies two tensors of the split sequence");
    require_error([&] { sequence_first(random({12, 1, 16})); }, "torch::nn::MultiheadAttention");
    auto fused = split(torch::jit::load(TEST_DATA "/fused_encoder.pt"));
    require_error([&] { fused(x); }, "aten::_transformer_encoder_layer_fwd attends over the split tokens");
    auto pointwise = split([](at::Tensor t) { return t * 2; });
    require_error([&] { pointwise(x); }, "no attention over the split tokens was met");
    auto nothing = split([](at::Tensor t) { return t * 2; }, {});
    require_error([&] { nothing(x); }, "nothing was split");
    auto joined = split([&](at::Tensor t) {
      auto all = at::cat({t, random({1, 4, 16})}, 1).unsqueeze(1);
      return at::scaled_dot_product_attention(all, all, all);
    });
    require_error([&] { joined(x); }, "tokens were moved, dropped or joined with others");
    auto dropout = split([](at::Tensor t) { return at::scaled_dot_product_attention(t, t, t, {}, 0.5); });
    require_error([&] { dropout(x); }, "dropout");
    require_error([&] { split(self_attention, {{.arg = 3, .dim = 1}})(x); },
                  "names argument 3, but the module was called with 1");
    require_error([&] { split(self_attention, {{.arg = 0, .dim = 5}})(x); }, "dimension 5");
    auto trained = split([](at::Tensor t) { return at::scaled_dot_product_attention(t, t, t); });
    require_error(
        [&] {
          at::AutoGradMode grad(true);
          trained(random({1, 12, 16}).requires_grad_());
        },
        "gradients do not flow");
    world.barrier();
  });
}

TEST_CASE("a group of one calls the module itself: no bit changes") {
  at::NoGradGuard no_grad;
  auto plain = model();
  auto split = plain | wanpar::sequence_parallel({.split = {{.arg = 0, .dim = 1}}});
  auto x = random({2, 11, 48});
  CHECK(torch::equal(split(x), plain(x)));
}
