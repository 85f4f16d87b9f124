#include <ATen/autocast_mode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include <future>

#include "models/attention_model.hpp"
#include "worlds.hpp"

using namespace wanpar::conformance::models;

using wanpar::Communicator;
using wanpar::Mesh;

namespace sequence_parallel_test {
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

at::Tensor self_attend(const at::Tensor& t) { return at::scaled_dot_product_attention(t, t, t); }

wanpar::SequenceParallelOptions over(const Mesh& mesh, std::vector<wanpar::SplitInput> split) {
  return {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .split = std::move(split), .min_share = 1};
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

TEST_CASE("a module may say itself where its tokens begin and end") {
  auto plain = model();
  auto announcing = [&](at::Tensor x, at::Tensor position) {
    x = wanpar::split_sequence(x, 1, {{position, 0}});
    return wanpar::gather_sequence(plain(x + position), 1);
  };
  on_meshes([&](Mesh& mesh) {
    auto split = announcing | wanpar::sequence_parallel(
                                  {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1});
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
                                            .split = {{.arg = 0, .dim = 1}},
                                            .min_share = 1};
    auto split = plain | wanpar::sequence_parallel(options);
    auto x = random({1, 24, 48});
    auto expected = plain(x);
    auto send = [&] {
      split(x);  // the first pass asks, and its shares are uneven
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
                                              .split = {{.arg = 0, .dim = 2}},
                                              .min_share = 1};
      auto attend = [](at::Tensor x) { return at::scaled_dot_product_attention(x, x, x); };
      auto split = attend | wanpar::sequence_parallel(options);
      split(random({1, heads, tokens, channels}));  // the first pass asks, and its shares are uneven
      recording.clear();
      split(random({1, heads, tokens, channels}));

      auto totals = recording.totals();
      auto sum = [&](wanpar::Operation operation) {
        return mesh.world().all_reduce(at::tensor({totals[operation].bytes})).get().item<int64_t>();
      };
      auto lengths = wanpar::even_sizes(tokens, ranks), share = wanpar::even_sizes(heads, degree);
      int64_t kept =
          tokens < ranks
              ? tokens * heads
              : 0;  // what a rank trades with itself, and the tokens that never leave their ulysses group
      bool is_split = tokens >= ranks;
      for (int64_t r = 0; r < ranks && is_split; ++r) kept += lengths[r] * share[r % degree];
      require(sum(wanpar::Operation::all_to_all) == (degree > 1) * 4 * 4 * channels * (tokens * heads - kept),
              "ulysses: " + text(mesh, tokens));
      require(sum(wanpar::Operation::exchange) == is_split * 2 * 4 * channels * heads * tokens * (rounds - 1),
              "ring: " + text(mesh, tokens));
    }
  });
}

TEST_CASE("what cannot be carried exactly is refused on every rank, naming the operator and the remedy") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    at::NoGradGuard no_grad;
    auto split = [&](auto module, std::vector<wanpar::SplitInput> cuts = {{.arg = 0, .dim = 1}}) {
      return module | wanpar::sequence_parallel({.ulysses = world, .split = std::move(cuts), .min_share = 1});
    };
    auto x = random({1, 12, 16});
    auto self_attention = [](at::Tensor t) { return at::scaled_dot_product_attention(t, t, t); };
    auto nothing = split([](at::Tensor t) { return t * 2; }, {});
    require_error([&] { nothing(x); }, "nothing was split");
    auto by_pointer = split([](at::Tensor t) {
      auto y = at::empty_like(t);
      std::copy_n(t.contiguous().const_data_ptr<float>(), t.numel(), y.mutable_data_ptr<float>());
      return self_attend(y);
    });
    require_error([&] { by_pointer(random({1, 24, 16})); }, "have no memory that one rank could read");
    auto dropout = split([](at::Tensor t) { return at::scaled_dot_product_attention(t, t, t, {}, 0.5); });
    require_error([&] { dropout(x); }, "call eval()");
    require_error([&] { split(self_attention, {{.arg = 3, .dim = 1}})(x); },
                  "names argument 3, but the module was called with 1");
    require_error([&] { split(self_attention, {{.arg = 0, .dim = 5}})(x); }, "dimension 5");
    world.barrier();
  });
}

TEST_CASE("ranks that are given other tensors are refused before they mix them") {
  on_worlds(
      [](Communicator world) {
        auto refuses = [&](const at::Tensor& mine, const std::string& part) {
          auto wrapped = self_attend | wanpar::sequence_parallel({.ulysses = world, .split = {{.arg = 0}}});
          require_error([&] { wrapped(mine); }, part);
          world.barrier();
        };
        const auto x = random({4, 8, 9, 16});
        refuses(x * (1 + world.rank()),
                "other values on rank 1 than on rank 0; all ranks of the group split");
        refuses(world.rank() ? x.flip(0) : x, "other values on rank 1");
        refuses(x.narrow(2, 0, 9 - world.rank()),
                "where rank 0 has tensor Float[4, 8, 9, 16], rank 1 has tensor Float[4, 8, 8, 16]");
        refuses(x.narrow(0, 0, 4 - world.rank()), "another axis of the mesh");
        refuses(x.clone().requires_grad_(world.rank() == 0), "without gradients");
        auto batches = self_attend | wanpar::sequence_parallel({.ulysses = world, .split = {{.arg = 0}}}) |
                       wanpar::data_parallel({.group = world});
        require_error([&] { batches(x); }, "all ranks of the group split one tensor");
      },
      {2, 3});
}

TEST_CASE("groups that are no axes of one mesh are refused where the module is wrapped") {
  on_worlds(
      [](Communicator world) {
        Mesh mesh(world, {{"outer", 2}, {"inner", world.size() / 2}});
        for (auto& ulysses : {world, mesh["outer"]}) {
          auto wrap = [&] { self_attend | wanpar::sequence_parallel({.ulysses = ulysses, .ring = world}); };
          require_error(wrap, "not two axes of one mesh");
          world.barrier();
        }
      },
      {2, 4});
}

TEST_CASE("what a module makes of sizes and behind autograd's back is that of one rank") {
  on_worlds([](Communicator world) {
    at::NoGradGuard no_grad;
    const std::vector<std::function<at::Tensor(at::Tensor)>> modules = {
        [](at::Tensor t) { return self_attend(t - t.data().mean(1, true)); },
        [](at::Tensor t) { return self_attend(t * std::log(t.size(1))); },
        [](at::Tensor t) { return self_attend(t.size(1) % 7 > 3 ? t : t * 2); },
        [](at::Tensor t) {
          return self_attend(t + at::zeros({1, t.size(1) / 3, 16}).sum() + t.numel() * 1e-3);
        },
    };
    for (auto& module : modules)
      for (int64_t tokens : {25, 24, 11}) {
        auto x = random({1, tokens, 16});
        auto split = module | wanpar::sequence_parallel({.ulysses = world, .split = {{.arg = 0, .dim = 1}}});
        require_close(split(x), module(x), 1e-5, fmt::format("module {}", &module - modules.data()));
      }
  });
}

TEST_CASE("a thread of the module's own may compute with what is here, and exchanges nothing") {
  on_worlds([](Communicator world) {
    auto on_a_thread = [&](auto compute) {
      return [compute](at::Tensor t) {
        auto other = std::async(std::launch::async, [&] {
          at::NoGradGuard no_grad;
          return compute(t);
        });
        return self_attend(t) + other.get();
      } | wanpar::sequence_parallel({.ulysses = world, .split = {{.arg = 0, .dim = 1}}});
    };
    at::NoGradGuard no_grad;
    auto x = random({1, 24, 16});
    require_close(on_a_thread([](at::Tensor t) { return t * 2; })(x), self_attend(x) + x * 2, 1e-5, "here");
    if (world.size() == 1) return;
    for (auto& compute : {+[](at::Tensor t) { return t.mean(1, true); },
                          +[](at::Tensor t) { return at::scaled_dot_product_attention(t, t, t); }})
      require_error([&] { on_a_thread(compute)(x); }, "by another thread than that which called the module");
    world.barrier();
  });
}

TEST_CASE("an operator that needs tokens of other ranks has them") {
  using Step = std::function<at::Tensor(at::Tensor)>;  // [1, 12, 16], split along 1
  auto kernel = at::ones({16, 16, 3}), positions = at::ones({12, 16});
  const std::vector<Step> steps = {
      [](at::Tensor t) { return t - t.mean(1, true); },
      [](at::Tensor t) { return t / t.sum(); },
      [](at::Tensor t) { return t.softmax(1); },
      [](at::Tensor t) { return t.cumsum(1); },
      [](at::Tensor t) { return t.flip(1); },
      [](at::Tensor t) { return t.roll(1, 1); },
      [](at::Tensor t) { return t + at::arange(t.size(1)).unsqueeze(1); },
      [=](at::Tensor t) { return t + positions; },
      [](at::Tensor t) { return t.narrow(1, 0, 1).expand_as(t).contiguous(); },
      [](at::Tensor t) {
        return at::cat({t, t}, 1);
      },
      [](at::Tensor t) {
        return at::matmul(t.transpose(1, 2), at::ones({t.size(1), t.size(1)})).transpose(1, 2);
      },
      [](at::Tensor t) { return at::layer_norm(t.transpose(1, 2), {t.size(1)}).transpose(1, 2); },
      [=](at::Tensor t) { return at::conv1d(t.transpose(1, 2), kernel).transpose(1, 2); },
      [=](at::Tensor t) { return at::conv1d(t.transpose(1, 2), kernel, {}, 2, 1).transpose(1, 2); },
      [](at::Tensor t) {
        return at::batch_norm(t.transpose(1, 2), {}, {}, {}, {}, true, 0.1, 1e-5, false).transpose(1, 2);
      },
      [](at::Tensor t) { return t.max().item<float>() > 0 ? t : -t; },
      [](at::Tensor t) {
        return t.reshape({1, -1}).reshape({1, 8, -1}).reshape({1, -1, 16});
      },
      [](at::Tensor t) {
        return at::constant_pad_nd(t, {0, 0, 1, 1});
      },
      [](at::Tensor t) {
        auto buffer = at::zeros({1, t.size(1) + 2, 16});
        buffer.narrow(1, 0, t.size(1)).copy_(t);
        return buffer.narrow(1, 0, t.size(1));
      },
  };
  on_worlds(
      [&](Communicator world) {
        if (world.size() != 2) return;  // six tokens a rank, which the steps are made for
        at::NoGradGuard no_grad;
        for (auto& step : steps) {
          auto module = [&step](at::Tensor t) {
            t = step(t).unsqueeze(1);
            return at::scaled_dot_product_attention(t, t, t).squeeze(1);
          };
          auto split = module | wanpar::sequence_parallel(
                                    {.ulysses = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
          auto x = random({1, 12, 16});
          for (int pass = 0; pass < 3; ++pass)
            require_close(split(x), module(x), 1e-5, fmt::format("step {}", &step - steps.data()));
        }
      },
      {2});
}

TEST_CASE("operators that keep tokens apart are followed wherever they move them") {
  using Step = std::function<at::Tensor(at::Tensor)>;  // [2, tokens, 16], split along 1
  auto wide = [](at::Tensor x) { return x.to(at::kDouble); };
  auto weight = wide(random({16, 16}, 3)), kernel = wide(random({16, 16, 1}, 4)),
       scale = wide(random({1, 1, 16}, 5));
  auto table = wide(random({7, 16}, 6));
  const std::vector<Step> steps = {
      [](at::Tensor t) {
        return t.permute({1, 2, 0}).contiguous().permute({2, 0, 1});
      },
      [](at::Tensor t) {
        return t.flatten(0, 1).unflatten(0, {2, -1});
      },
      [](at::Tensor t) {
        return t.reshape({-1, 16}).reshape({2, -1, 16});
      },
      [](at::Tensor t) { return t.movedim(1, 0).movedim(0, 1); },
      [](at::Tensor t) {
        return at::stack({t, t}, 0).select(0, 1);
      },
      [](at::Tensor t) {
        return at::cat({t, t}, 2).chunk(2, -1)[1] + t.unbind(2)[3].unsqueeze(-1);
      },
      [](at::Tensor t) {
        return t - t.mean(-1, true) + t.amax({0}).unsqueeze(0) + t.max(t.neg()) + std::get<0>(t.sort(-1));
      },
      [=](at::Tensor t) {
        return at::linear(t, weight) + at::matmul(t, weight) +
               at::matmul(weight, t.transpose(1, 2)).transpose(1, 2);
      },
      [=](at::Tensor t) { return at::conv1d(t.transpose(1, 2), kernel).transpose(1, 2) * scale; },
      [](at::Tensor t) {
        return at::layer_norm(t, {16}).softmax(-1) + at::gelu(t).masked_fill(t.gt(1), 0.5);
      },
      [=](at::Tensor t) {
        return at::embedding(table, t.select(2, 0).abs().mul(2).clamp_max(6).to(at::kLong));
      },
      [](at::Tensor t) {
        return at::view_as_real(at::view_as_complex(t.unflatten(-1, {-1, 2}).contiguous())).flatten(-2);
      },
      [](at::Tensor t) {
        auto buffer = at::empty_like(t);
        buffer.copy_(t).mul_(2);
        return buffer;
      },
      [](at::Tensor t) {
        return at::scalar_tensor(2.0).expand_as(t) * t + t.slice(2, 0, 8).repeat({1, 1, 2});
      },
      [](at::Tensor t) {
        return at::where(t > 0, t, t * 0.1).clamp(-1, 1).pow(2).add_(t).to(at::kFloat).to(at::kDouble);
      },
  };
  on_worlds([&](Communicator world) {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < steps.size(); ++i) {
      auto module = [&step = steps[i]](at::Tensor t) {
        auto heads = step(t).unflatten(-1, {4, 4}).transpose(1, 2);
        return at::scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2);
      };
      auto split = module | wanpar::sequence_parallel(
                                {.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 3});
      for (int64_t tokens : {12, 19, 3, 19}) {
        auto x = wide(random({2, tokens, 16}));
        require_close(split(x), module(x), 1e-5,
                      fmt::format("step {}, {} tokens, {} ranks", i, tokens, world.size()));
      }
    }
  });
}

TEST_CASE(
    "attention within each split element stays local: frames split, attention over the places of each") {
  on_worlds([](Communicator world) {
    at::NoGradGuard no_grad;
    auto module = [](at::Tensor t) {  // [frames, places, channels]: first within frames, then over them
      auto within = t.unsqueeze(1);
      t = at::scaled_dot_product_attention(within, within, within).squeeze(1);
      auto over = t.transpose(0, 1).unsqueeze(1);
      return at::scaled_dot_product_attention(over, over, over).squeeze(1).transpose(0, 1);
    };
    auto split =
        module | wanpar::sequence_parallel({.ring = world, .split = {{.arg = 0, .dim = 0}}, .min_share = 1});
    auto x = random({7, 5, 8});
    require_close(split(x), module(x), 1e-5, "frames");
  });
}

namespace {

/// Goes another way by a flag, by a number, and in training.
struct SwitchedImpl : torch::nn::Module {
  at::Tensor forward(at::Tensor t, bool centered, double power, std::optional<at::Tensor> shift) {
    t = at::scaled_dot_product_attention(t, t, t);
    if (shift) t = t + *shift;
    if (centered || power > 1 || is_training()) t = t - t.mean(2, true);
    return t;
  }
};
TORCH_MODULE(Switched);

}  // namespace

TEST_CASE("a flag, a number or the mode may change the way in any pass") {
  on_worlds(
      [](Communicator world) {
        at::NoGradGuard no_grad;
        auto x = random({1, 2, 10, 4}), shift = random({4});
        Switched module;
        module->eval();
        auto split = module | wanpar::sequence_parallel(
                                  {.ring = world, .split = {{.arg = 0, .dim = 2}}, .min_share = 1});
        auto is_right = [&](bool centered, double power, std::optional<at::Tensor> by) {
          require_close(split(x, centered, power, by), module(x, centered, power, by), 1e-5, "a pass");
        };
        for (int twice = 0; twice < 2; ++twice) is_right(false, 1, {}), is_right(false, 1, shift);
        is_right(true, 1, {}), is_right(false, 2, shift);
        module->train();
        is_right(false, 1, {});
        module->eval();
        is_right(false, 1, {});
        world.barrier();
      },
      {2, 3});
}

TEST_CASE("a group of one calls the module itself: no bit changes") {
  at::NoGradGuard no_grad;
  auto plain = model();
  auto split = plain | wanpar::sequence_parallel({.split = {{.arg = 0, .dim = 1}}, .min_share = 1});
  auto x = random({2, 11, 48});
  CHECK(torch::equal(split(x), plain(x)));
}

}  // namespace sequence_parallel_test
