#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "models/attention_model.hpp"
#include "samples.hpp"
#include "worlds.hpp"

using namespace wanpar::conformance::models;

using wanpar::Communicator;
using wanpar::Model;

namespace forward_test {
namespace {

const std::vector<int64_t> kBatches{8, 5, 3, 1, 0, 5};  // fewer than ranks too, and two shapes in a row

wanpar::DataParallel<Model> split(Model model, const Communicator& world, std::vector<int64_t> batch = {0}) {
  return model | wanpar::data_parallel({.group = world, .batch = std::move(batch)});
}

std::string text(const Communicator& world, int64_t batch) {
  return fmt::format("{} samples over {} ranks", batch, world.size());
}

}  // namespace

TEST_CASE("a batch over the ranks gives what it gives on one, for any number of samples") {
  Model plain = with_weights(Classifier());
  on_worlds([&](Communicator world) {
    auto parallel = split(with_weights(Classifier()), world, {0, 1});
    for (auto batch : kBatches) {
      auto x = samples({batch, 12}), label = samples({batch, 12}, 1), bias = samples({12}, 2);
      auto expected = plain(x, label, bias);
      require_close(parallel(x, label, bias), expected, 1e-12, text(world, batch));
      require_close(parallel(x, label, bias), expected, 1e-12, "again, " + text(world, batch));
      at::NoGradGuard no_grad;
      require_close(parallel(x, label, bias), expected, 1e-12, "no_grad, " + text(world, batch));
      c10::InferenceMode inference;
      require_close(parallel(x, label, bias), expected, 1e-12, "inference_mode, " + text(world, batch));
    }
  });
}

TEST_CASE("without gradients ranks may share one module") {
  Model plain = with_weights(Classifier(), at::kFloat);
  on_worlds([&](Communicator world) {
    at::NoGradGuard no_grad;
    auto parallel = split(plain, world);
    auto x = samples({7, 12}, 0, at::kFloat);
    require_close(parallel(x), plain(x), 1e-5, text(world, 7));
  });
}

TEST_CASE("a TorchScript file is split by batch without a change") {
  on_worlds([&](Communicator world) {
    at::NoGradGuard no_grad;
    auto plain = torch::jit::load(TEST_DATA "/attention.pt");
    auto parallel = plain | wanpar::data_parallel({.group = world});
    auto x = samples({3, 6, 48}, 0, at::kFloat);
    for (int run = 0; run < 3; ++run)
      require_close(parallel(x), plain.forward({x}).toTensor(), 1e-5, text(world, 3));
  });
}

TEST_CASE("results may be tuples and vectors of tensors") {
  on_worlds([](Communicator world) {
    auto module = [](at::Tensor x) {
      return std::tuple(x * 2, std::vector<at::Tensor>{x + 1, x.sum({1})}, at::Tensor());
    };
    auto parallel = module | wanpar::data_parallel({.group = world});
    auto x = samples({5, 3});
    auto [first, rest, nothing] = parallel(x);
    require_equal(first, x * 2, "first");
    require_equal(rest[0], x + 1, "second");
    require_equal(rest[1], x.sum({1}), "third");
    require(!nothing.defined(), "an undefined tensor stays one");
  });
}

TEST_CASE("the two branches of guidance run in two halves of the ranks, each of which splits the tokens") {
  torch::manual_seed(1);
  auto made = AttentionModel();
  made->eval();
  Model plain = made;
  on_worlds(
      [&](Communicator world) {
        if (world.size() % 2) return;
        at::NoGradGuard no_grad;
        wanpar::Mesh mesh(world, {{"cfg", 2}, {"ulysses", world.size() / 2}});
        Model sequence =
            plain | wanpar::sequence_parallel(
                        {.ulysses = mesh["ulysses"], .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
        auto branches = split(sequence, mesh["cfg"], {0, 1});
        auto x = samples({1, 9, 48}, 0, at::kFloat), text_and_none = samples({2, 4, 48}, 1, at::kFloat);
        auto twice = at::cat({x, x});
        require_close(branches(twice, text_and_none), plain(twice, text_and_none), 1e-5, text(world, 2));
      },
      {2, 4, 8});
}

TEST_CASE("the payload of a forward is what the formula says") {
  on_worlds([](Communicator world) {
    wanpar::Recording recording;
    auto parallel = split(with_weights(Classifier()), recording(world));
    at::NoGradGuard no_grad;
    for (auto batch : kBatches) {
      world.barrier();
      recording.clear();
      parallel(samples({batch, 12}));
      auto sent = world.all_reduce(at::tensor({recording.total().bytes})).get().item<int64_t>();
      // Beside the result, what ranks compare: names and values of one argument, and what the result is.
      auto expected = (world.size() - 1) * (batch * 12 * 8 + world.size() * (24 + 16 + 24));
      require(sent == expected, fmt::format("{}: {} bytes are {}", text(world, batch), sent, expected));
    }
  });
}

}  // namespace forward_test
