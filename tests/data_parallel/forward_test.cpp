#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "models/attention_model.hpp"
#include "ranks/worlds.hpp"
#include "samples.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace {

const std::vector<int64_t> kBatches{8, 5, 3, 1, 0, 5};  // fewer than ranks too, and two shapes in a row

Model split(Model model, const Communicator& world, std::vector<int64_t> batch = {0}) {
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
  auto made = AttentionModel();
  made->eval();
  Model plain = made;
  on_worlds(
      [&](Communicator world) {
        if (world.size() % 2) return;
        at::NoGradGuard no_grad;
        wanpar::Mesh mesh(world, {{"cfg", 2}, {"ulysses", world.size() / 2}});
        Model sequence =
            plain | wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .split = {{.arg = 0, .dim = 1}}});
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
    Model parallel = with_weights(Classifier()) | wanpar::data_parallel({.group = recording(world)});
    at::NoGradGuard no_grad;
    for (auto batch : kBatches) {
      world.barrier();
      recording.clear();
      parallel(samples({batch, 12}));
      auto sent = world.all_reduce(at::tensor({recording.total().bytes})).get().item<int64_t>();
      require(sent == (world.size() - 1) * batch * 12 * 8, text(world, batch));
    }
  });
}

TEST_CASE("wrapping gives every rank the weights of rank 0, and says where modules differ") {
  on_worlds([](Communicator world) {
    auto mine = with_weights(Classifier());
    auto expected = mine->last->weight.detach().clone();
    auto step = mine->register_buffer("step", at::full({2}, c10::complex<double>(3, world.rank())));
    wanpar::Recording recording;
    {
      at::NoGradGuard no_grad;
      mine->last->weight.add_(world.rank());
      mine | wanpar::data_parallel({.group = world, .sync_module_states = false});
      require_equal(mine->last->weight, expected + world.rank(), "left alone");
      mine | wanpar::data_parallel({.group = recording(world)});
      require_equal(mine->last->weight, expected, "weight of rank 0");
      require(step[0].item().toComplexDouble() == c10::complex<double>(3, 0), "buffer of rank 0");
    }
    auto bytes = static_cast<int64_t>(step.nbytes());
    for (auto& p : mine->parameters()) bytes += p.nbytes();
    world.barrier();
    auto sent = recording.totals()[wanpar::Operation::broadcast].bytes;
    require(sent == (world.rank() == 0 ? (world.size() - 1) * bytes : 0),
            fmt::format("rank {} sends {} bytes, of {}", world.rank(), sent, bytes));
    if (world.size() == 1) return;
    auto other = Classifier(world.rank() == 1 ? 13 : 12);
    auto differs = fmt::format("where rank 0 has first.weight Float[24, 12], rank 1 has first.weight");
    require_error([&] { other | wanpar::data_parallel({.group = world}); }, differs);
    auto shorter = torch::nn::Sequential(torch::nn::Linear(2, 2));
    if (world.rank() == world.size() - 1) shorter->push_back(torch::nn::Linear(2, 2));
    require_error([&] { shorter | wanpar::data_parallel({.group = world}); },
                  fmt::format("where rank 0 has nothing more, rank {} has 1.weight", world.size() - 1));
    world.barrier();
  });
}

TEST_CASE("what cannot be split by batch is refused on every rank") {
  on_worlds([](Communicator world) {
    if (world.size() == 1) return;
    at::NoGradGuard no_grad;
    auto x = samples({4, 12});
    auto twice = split([](at::Tensor a, at::Tensor b) { return a + b; }, world, {0, 1});
    require_error([&] { twice(x, samples({3, 12})); }, "samples, another one");
    require_error([&] { twice(x, at::scalar_tensor(1.0)); }, "argument 1 is a number");
    require_error([&] { split([](at::Tensor a) { return a; }, world, {2})(x); }, "names argument 2");
    require_error([&] { split([](at::Tensor a) { return a.mean(); }, world)(x); },
                  "dimension 0 must be the batch");
    require_error([&] { split([](at::Tensor a) { return a; }, world, {}); }, ".batch is []");
    require_error([&] { split([](at::Tensor a) { return a; }, world)(at::Tensor()); }, "there is no batch");
    auto with_number = [](at::Tensor a, int b) { return a * b; };
    auto listed = with_number | wanpar::data_parallel({.group = world, .batch = {0, 1}});
    require_error([&] { listed(x, 2); }, "argument 1 is no tensor");

    auto norm = with_weights(torch::nn::BatchNorm1d(12));
    auto normed = norm | wanpar::data_parallel({.group = world});
    require_error([&] { normed(samples({4 * world.size(), 12})); }, "the module wrote its buffer");
    auto reads = with_weights(torch::nn::BatchNorm1d(12));
    reads->eval();
    require_close(split(reads, world)(x), reads(x), 1e-12, "batch norm that only reads its statistics");
    world.barrier();
  });
}

TEST_CASE("a group of one calls the module itself: no bit changes") {
  auto plain = with_weights(Classifier());
  auto parallel = plain | wanpar::data_parallel({});
  auto x = samples({5, 12});
  CHECK(torch::equal(parallel(x), plain(x)));
  CHECK(parallel.named_parameters().size() == plain->parameters().size());
  CHECK(parallel.unused_parameters().empty());
}
