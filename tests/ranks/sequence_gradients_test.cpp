#include <c10/core/AutogradState.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include "models/attention_model.hpp"
#include "worlds.hpp"

using namespace wanpar::conformance::models;

using wanpar::Communicator;
using wanpar::Mesh;
using wanpar::Model;

namespace sequence_gradients_test {
namespace {

AttentionModel model(AttentionModelOptions options = {}) {
  torch::manual_seed(1);
  AttentionModel made(options);
  made->to(at::kDouble);
  return made;
}

at::Tensor random(std::vector<int64_t> shape, int seed = 0) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed + 7);
  return at::randn(shape, generator, at::kDouble);
}

/// The result, then the gradients of the parameters and of the arguments, of a loss that weighs every element
/// differently.
std::vector<at::Tensor> gradients(Model model, std::vector<at::Tensor> arguments) {
  std::vector<at::Tensor> wanted;
  for (auto& [name, tensor] : model.named_parameters()) wanted.push_back(tensor);
  for (auto& x : arguments)
    if (x.defined() && x.is_floating_point()) wanted.push_back(x = x.detach().requires_grad_());
  auto result = model.call(arguments);
  auto loss = (result * random(result.sizes().vec(), 99)).sum();
  auto found = torch::autograd::grad({loss}, wanted, {}, {}, false, true);
  found.insert(found.begin(), result.detach());
  return found;
}

void require_same_gradients(Model wrapped, Model bare, const std::vector<at::Tensor>& arguments,
                            const std::string& where) {
  auto expected = gradients(bare, arguments), actual = gradients(wrapped, arguments);
  for (size_t i = 0; i < expected.size(); ++i) {
    require(expected[i].defined() == actual[i].defined(), fmt::format("{}: gradient {} is there", where, i));
    if (!expected[i].defined()) continue;
    auto size = expected[i].abs().max().item<double>();
    require_close(actual[i], expected[i], 1e-9 * size + 1e-30, fmt::format("{}: gradient {}", where, i));
  }
}

void on_meshes(const std::function<void(Mesh&, const std::string&)>& claim) {
  on_worlds([&](Communicator world) {
    for (int64_t ulysses = 1; ulysses <= world.size(); ++ulysses) {
      if (world.size() % ulysses) continue;
      Mesh mesh(world, {{"ring", world.size() / ulysses}, {"ulysses", ulysses}});
      claim(mesh, fmt::format("ring {} x ulysses {}", mesh.size("ring"), ulysses));
    }
  });
}

wanpar::SequenceParallelOptions over(const Mesh& mesh, bool balance_causal = false) {
  return {.ulysses = mesh["ulysses"],
          .ring = mesh["ring"],
          .split = {{.arg = 0, .dim = 1}},
          .balance_causal = balance_causal,
          .min_share = 1};
}

}  // namespace

TEST_CASE("gradients are not added n times to a module that ranks share") {
  auto shared = model();
  std::vector<AttentionModel> own(8, nullptr);
  for (auto& one : own) one = model();
  on_worlds([&](Communicator world) {
    if (world.size() == 1 || is_one_of_several_processes()) return;
    auto train = [&](AttentionModel module, const auto& backward) {
      Model wrapped = Model(module) | wanpar::sequence_parallel({.ulysses = world, .split = {{0, 1}}});
      backward(wrapped.call({random({2, 37, 48})}).sum(), module->parameters());
    };
    auto all = [](at::Tensor loss, auto&&) { loss.backward(); };
    auto some = [](at::Tensor loss, auto&& parameters) { loss.backward({}, {}, false, parameters); };
    require_error([&] { train(shared, all); }, "give each rank a module of its own");
    require_error([&] { train(shared, some); }, "give each rank a module of its own");
    train(shared, [](at::Tensor loss, auto&& parameters) {
      torch::autograd::grad({loss}, parameters, {}, {}, {}, true);
    });
    train(own[world.rank()], all);
  });
  for (auto& parameter : shared->parameters()) CHECK_FALSE(parameter.grad().defined());
}

TEST_CASE("gradients of weights, tokens and text are those of one rank, for any length") {
  auto plain = model();
  on_meshes([&](Mesh& mesh, const std::string& where) {
    Model wrapped = Model(plain) | wanpar::sequence_parallel(over(mesh));
    for (int64_t tokens : {24, 37, 5, 1, 37}) {
      require_same_gradients(wrapped, plain, {random({2, tokens, 48})},
                             fmt::format("{}, {} tokens", where, tokens));
      require_same_gradients(wrapped, plain, {random({2, tokens, 48}), random({2, 7, 48}, 1)},
                             where + ", with text");
    }
  });
}

TEST_CASE("gradients under a mask, grouped heads, and causal attention in order and balanced") {
  auto grouped = model({.key_heads = 2}), causal = model({.causal = true}), masked = model();
  on_meshes([&](Mesh& mesh, const std::string& where) {
    require_same_gradients(Model(grouped) | wanpar::sequence_parallel(over(mesh)), grouped,
                           {random({1, 23, 48})}, where + ", grouped");
    for (bool balanced : {false, true})
      for (int64_t tokens : {40, 37, 9, 2})
        require_same_gradients(Model(causal) | wanpar::sequence_parallel(over(mesh, balanced)), causal,
                               {random({2, tokens, 48})},
                               fmt::format("{}, causal, balanced {}", where, balanced));
    auto bias = random({1, 6, 21, 21}, 5);
    auto by = [&](const at::Tensor& m) {
      return Model([masked = masked, m](const at::Tensor& x) mutable { return masked->forward(x, {}, m); });
    };
    require_same_gradients(by(bias) | wanpar::sequence_parallel(over(mesh)), by(bias), {random({2, 21, 48})},
                           where + ", bias");
    require_same_gradients(by(bias) | wanpar::sequence_parallel(over(mesh, true)), by(bias),
                           {random({2, 21, 48})}, where + ", bias, balanced");
  });
}

TEST_CASE("a learnt bias of the scores has its gradient from every head and token") {
  auto plain = model();
  auto bias = random({1, 6, 13, 13}, 5).requires_grad_();
  auto biased = [&](const at::Tensor& x, const at::Tensor& b) { return plain->forward(x, {}, b); };
  on_meshes([&](Mesh& mesh, const std::string& where) {
    for (bool balanced : {false, true})
      require_same_gradients(Model(biased) | wanpar::sequence_parallel(over(mesh, balanced)), Model(biased),
                             {random({1, 13, 48}), bias}, where);
  });
}

TEST_CASE("weights used before, in and after the split part have whole gradients") {
  auto plain = model();
  auto scale = random({48}, 3).requires_grad_();
  // The same weight inside and outside of the split part, as tied embeddings have it.
  auto tied = [&](const at::Tensor& x, const at::Tensor& s) {
    auto y = wanpar::split_sequence(x * s, 1);
    y = plain(y * s);
    return wanpar::gather_sequence(y + s, 1) * s;
  };
  on_meshes([&](Mesh& mesh, const std::string& where) {
    Model wrapped = Model(tied) | wanpar::sequence_parallel(
                                      {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1});
    require_same_gradients(wrapped, Model(tied), {random({1, 11, 48}), scale}, where);
  });
}

TEST_CASE("a TorchScript module has its gradients, run after run, while its executor optimises") {
  auto script = torch::jit::load(TEST_DATA "/attention.pt");
  script.to(at::kDouble);
  on_meshes([&](Mesh& mesh, const std::string& where) {
    Model wrapped = Model(script) | wanpar::sequence_parallel(over(mesh));
    for (int run = 0; run < 4; ++run)
      require_same_gradients(wrapped, Model(script), {random({1, 12, 48})},
                             fmt::format("{}, run {}", where, run));
  });
}

TEST_CASE("the payload of forward and backward is what the formulas say") {
  on_worlds([&](Communicator world) {
    const int64_t e = 8, d = 8, heads = 6, tokens = 29, ranks = world.size();
    auto lengths = wanpar::even_sizes(tokens, ranks), share = wanpar::even_sizes(heads, ranks);
    int64_t kept = 0;
    for (int64_t r = 0; r < ranks; ++r) kept += lengths[r] * share[r];
    auto attend = [](const at::Tensor& x) { return at::scaled_dot_product_attention(x, x, x); };
    auto bytes = [&](bool ring, wanpar::Operation operation) {
      wanpar::Recording recording;
      wanpar::SequenceParallelOptions options{.split = {{.arg = 0, .dim = 2}}, .min_share = 1};
      (ring ? options.ring : options.ulysses) = recording(world);
      auto wrapped = attend | wanpar::sequence_parallel(options);
      for (int pass = 0; pass < 2; ++pass) {  // the first one asks, and its shares are uneven
        recording.clear();
        wrapped(random({1, heads, tokens, d}).requires_grad_()).sum().backward();
      }
      return world.all_reduce(at::tensor({recording.totals()[operation].bytes})).get().item<int64_t>();
    };
    require(bytes(false, wanpar::Operation::all_to_all) == 2 * 4 * e * d * (tokens * heads - kept),
            "ulysses");
    auto keys_and_values = 2 * e * d * heads * tokens;
    auto expected = ranks == 1 ? 0 : keys_and_values * (2 * (ranks - 1) + ranks);
    require(bytes(true, wanpar::Operation::exchange) == expected, "ring");
  });
}

TEST_CASE(
    "thread ranks run backward on themselves: a device's one thread for all of them would wait forever") {
  auto has_threads = [] { return c10::AutogradState::get_tls_state().get_multithreading_enabled(); };
  wanpar::local::run(2, [&](Communicator) { require(!has_threads(), "autograd's threads are off"); });
  CHECK(has_threads());
}

}  // namespace sequence_gradients_test
