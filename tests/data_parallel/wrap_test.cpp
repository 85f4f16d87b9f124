#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "samples.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace wrap_test {
namespace {

wanpar::DataParallel<Model> split(Model model, const Communicator& world, std::vector<int64_t> batch = {0}) {
  return model | wanpar::data_parallel({.group = world, .batch = std::move(batch)});
}

}  // namespace

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
                  "where the batch is in the result [] is not known: it went through aten::mean");
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
    require_close((reads | wanpar::data_parallel({.group = world}))(x), reads(x), 1e-12,
                  "batch norm that only reads its statistics");
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

TEST_CASE("what is around a torch::nn::Sequential, which takes anything, stands in a Model too") {
  on_worlds([](Communicator world) {
    torch::nn::Sequential chain(torch::nn::Linear(3, 3), torch::nn::Tanh());
    wanpar::Model model = chain | wanpar::data_parallel({.group = world});
    auto x = at::ones({5, 3});
    at::NoGradGuard no_grad;
    require(model(x).sizes() == x.sizes(), "it is called with the tensor, not with a list");
  });
}

}  // namespace wrap_test
