// Arguments and results of every shape, through every strategy.
#include "shapes.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/script.h>
#include <wanpar/core/error.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;
using wanpar::ModelOf;

namespace shapes_test {
namespace {

at::Tensor random(std::vector<int64_t> shape, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kDouble);
}

template <class Module>
std::shared_ptr<Module> made() {
  static std::mutex generator;
  std::lock_guard lock(generator);
  torch::manual_seed(2);
  auto module = std::make_shared<Module>();
  module->to(at::kDouble);
  return module;
}

/// The two tensors of the result, and the gradients of the arguments.
template <class Module, class Called>
shapes::Both run(Called& called) {
  auto tokens = random({3, 7, 8}, 1).requires_grad_(), scale = random({3, 1, 8}, 2).requires_grad_();
  auto both = Module::both(called(Module::in(tokens, scale)));
  (both[0] * both[0] + both[1]).sum().backward();
  return {both[0].detach(), both[1].detach(), tokens.grad(), scale.grad()};
}

template <class Module>
void require_alike(const std::string& name) {
  auto bare = [module = made<Module>()](typename Module::In in) { return module->forward(in); };
  const auto expected = run<Module>(bare);
  on_worlds(
      [&](Communicator world) {
        auto check = [&](const std::string& strategy, auto wrapped) {
          for (int pass = 0; pass < 2; ++pass) {
            auto actual = run<Module>(wrapped);
            for (size_t i = 0; i < expected.size(); ++i)
              require_close(actual[i], expected[i], 1e-9,
                            fmt::format("{} through {}, tensor {}", name, strategy, i));
          }
        };
        auto module = [] { return made<Module>(); };
        check("SequenceParallel",
              module() | wanpar::sequence_parallel(
                             {.ring = world, .split = {{.arg = Module::kTokens, .dim = 1}}, .min_share = 1}));
        check("ShardedParams", module() | wanpar::sharded_params({.group = world}));
        check("DataParallel", module() | wanpar::data_parallel({.group = world}));
        check("BlockPipeline", module() | wanpar::block_pipeline({.stages = world, .micro_batches = 2}));
        check("BlockDistribution", module() | wanpar::block_distribution({.devices = {at::kCPU, at::kCPU}}));
        check("ActivationCheckpointing", module() | wanpar::activation_checkpointing());
        check("a Model", ModelOf<typename Module::Out>(module()));
        check("a Model in two strategies",
              ModelOf<typename Module::Out>(module() | wanpar::sharded_params({.group = world})) |
                  wanpar::sequence_parallel(
                      {.ulysses = world, .split = {{.arg = Module::kTokens, .dim = 1}}, .min_share = 1}));
      },
      {1, 2, 3});
}

/// Takes and gives what TorchScript has: optional, list and dict in, a tuple with a dict out. It has blocks.
torch::jit::Module scripted() {
  torch::jit::Module model("__torch__.Shapes"), list("__torch__.Blocks");
  std::string calls;
  for (int i = 0; i < 4; ++i) {
    torch::jit::Module block("__torch__.ShapesBlock");
    block.register_parameter("weight", random({8, 8}, 10 + i).div(4).requires_grad_(), false);
    block.define(
        "def forward(self, x):\n"
        "  h = torch.matmul(x, self.weight).unflatten(2, [2, 4]).transpose(1, 2)\n"
        "  return x + torch.scaled_dot_product_attention(h, h, h).transpose(1, 2).flatten(2)\n");
    auto name = "layer" + std::to_string(i);
    list.register_module(name, block);
    calls += "  x = self.blocks." + name + ".forward(x)\n";
  }
  model.register_module("blocks", list);
  model.define(
      "def forward(self, x, mask: Optional[Tensor], scale: List[Tensor], more: Dict[str, Tensor], factor: "
      "float) -> "
      "Tuple[Tensor, Dict[str, Tensor]]:\n"
      "  assert mask is None\n"
      "  x = x * scale[0] * more['scale'] * factor\n" +
      calls + "  return x, {'sine': torch.sin(x)}\n");
  return model;
}

template <class Called>
shapes::Both run_script(Called& called) {
  auto scale = random({3, 1, 8}, 2);
  c10::Dict<std::string, at::Tensor> more;
  more.insert("scale", scale);
  std::vector<c10::IValue> inputs{random({3, 7, 8}, 1), c10::IValue(), c10::List<at::Tensor>({scale}), more,
                                  0.5};
  auto result = called.forward(inputs).toTuple();
  return {result->elements()[0].toTensor().detach(),
          result->elements()[1].toGenericDict().at("sine").toTensor().detach()};
}

}  // namespace

TEST_CASE("a pair goes in and a tuple comes out, through every strategy") {
  require_alike<shapes::Tuples>("tuple");
}
TEST_CASE("a vector of optionals goes in and a vector comes out") { require_alike<shapes::Lists>("vector"); }
TEST_CASE("a map of maps goes in and a dictionary comes out") { require_alike<shapes::Maps>("map"); }
TEST_CASE("a struct goes in and a struct comes out") { require_alike<shapes::Structs>("struct"); }

TEST_CASE(
    "optional, list and dict go into TorchScript, and a tuple with a dict comes out, through every "
    "strategy") {
  auto bare = scripted();
  const auto expected = run_script(bare);
  on_worlds(
      [&](Communicator world) {
        auto check = [&](const std::string& strategy, auto wrapped) {
          for (int pass = 0; pass < 2; ++pass) {
            auto actual = run_script(wrapped);
            for (size_t i = 0; i < 2; ++i)
              require_close(actual[i], expected[i], 1e-9, fmt::format("{}, tensor {}", strategy, i));
          }
        };
        check("SequenceParallel",
              scripted() | wanpar::sequence_parallel(
                               {.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1}));
        check("ShardedParams", scripted() | wanpar::sharded_params({.group = world}));
        check("DataParallel",
              scripted() | wanpar::data_parallel({.group = world, .batch = {0, "2.0", "3.scale"}}));
        check("BlockPipeline", scripted() | wanpar::block_pipeline({.stages = world, .micro_batches = 2}));
        check("BlockDistribution",
              scripted() | wanpar::block_distribution({.devices = {at::kCPU, at::kCPU}}));
        check("ActivationCheckpointing", scripted() | wanpar::activation_checkpointing());
        check("two strategies", scripted() | wanpar::sharded_params({.group = world}) |
                                    wanpar::sequence_parallel(
                                        {.ulysses = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1}));
      },
      {1, 2, 3});
}

TEST_CASE("a result that holds no tokens goes out as it is, and what holds some must be gathered") {
  on_worlds(
      [](Communicator world) {
        auto attend = [](const at::Tensor& x) { return at::scaled_dot_product_attention(x, x, x); };
        auto module = [&](at::Tensor x, at::Tensor y) { return std::tuple(attend(x), y + 1); };
        auto x = random({2, 5, 8}, 1), y = random({2, 3}, 2);
        auto found =
            (module | wanpar::sequence_parallel({.ring = world, .split = {{0, 1}}, .min_share = 1}))(x, y);
        require_close(std::get<0>(found), attend(x), 1e-9, "tokens, found");
        require_close(std::get<1>(found), y + 1, 0, "the rest, found");
        auto named =
            module |
            wanpar::sequence_parallel(
                {.ring = world, .split = {{0, 1}}, .gather = {{.dim = 1, .result = 0}}, .min_share = 1});
        auto [a, b] = named(x, y);
        require_close(a, attend(x), 1e-9, "tokens");
        require_close(b, y + 1, 0, "the rest");
        auto forgotten =
            module |
            wanpar::sequence_parallel(
                {.ring = world, .split = {{0, 1}}, .gather = {{.dim = 0, .result = 1}}, .min_share = 1});
        require_error([&] { forgotten(x, y); }, "goes out with its dimension 1 split");
      },
      {2, 3});
}

TEST_CASE("what a module writes into an argument reaches the caller, whole") {
  on_worlds(
      [](Communicator world) {
        auto module = [](at::Tensor x, std::vector<at::Tensor>& seen, int& calls) {
          ++calls;
          seen.push_back(x * 2);
          return x + 1;
        };
        auto wrapped = module | wanpar::data_parallel({.group = world, .batch = {0, 1}});
        auto x = random({5, 3}, 1);
        std::vector<at::Tensor> seen;
        int calls = 0;
        for (int i = 0; i < 2; ++i) require_close(wrapped(x, seen, calls), x + 1, 1e-12, "the result");
        require(calls == 2 && seen.size() == 2, "two calls were noted");
        require_close(seen[0], x * 2, 1e-12, "what was written first");
        require_close(seen[1], x * 2, 1e-12, "and then");
      },
      {1, 2, 3});
}

TEST_CASE("arguments come as they may: moved, by reference, defaulted, listed, and left out of results") {
  struct Defaults : torch::nn::Module {
    at::Tensor forward(at::Tensor x, double factor = 2, std::optional<at::Tensor> y = {}) {
      return y ? x * factor + *y : x * factor;
    }
  };
  on_worlds(
      [](Communicator world) {
        auto x = random({5, 3}, 1), y = random({5, 3}, 2);
        auto split = [&](auto module, wanpar::ValueNames batch = {0}) {
          return module | wanpar::data_parallel({.group = world, .batch = std::move(batch)});
        };
        auto listed = split([](at::TensorList list) { return list[0] + list[1]; });
        require_close(listed(std::vector<at::Tensor>{x, y}), x + y, 0, "a list");
        auto taken = split([](std::pair<at::Tensor, at::Tensor>&& pair) { return pair.first - pair.second; });
        require_close(taken(std::pair(x, y)), x - y, 0, "an rvalue");
        bool is_told = false;
        auto told = split([](const at::Tensor& x, bool& is_told, const std::string& word, at::Scalar factor) {
          is_told = word == "so";
          return x * factor;
        });
        require_close(told(x, is_told, "so", 3), x * 3, 0, "by reference");
        require(is_told, "a number by reference reaches the caller");
        Model defaults(split(Model(std::make_shared<Defaults>())));
        require_close(defaults(x), x * 2, 0, "defaults");
        require_close(defaults(x, 3), x * 3, 0, "one of them");
        require_close(defaults(x, 3, std::nullopt), x * 3, 0, "left out");
        auto part = split(
            [](at::Tensor x) { return std::tuple(x, at::Tensor(), std::optional<at::Tensor>(), 2.5, x); });
        auto [a, b, c, d, e] = part(x);
        require_close(a, x, 0, "an argument given back");
        require_close(e, x, 0, "and again");
        require(!b.defined() && !c && d == 2.5, "what is no tensor");
      },
      {1, 2, 3});
}

TEST_CASE("lists and dictionaries of LibTorch are handles: the caller's are left as they are") {
  on_worlds(
      [](Communicator world) {
        auto x = random({4, 3}, 1);
        auto given_back = [](c10::List<at::Tensor> list) { return list; } |
                          wanpar::data_parallel({.group = world});
        c10::List<at::Tensor> list({x});
        const auto& constant = list;
        for (int i = 0; i < 2; ++i) {
          require_close(given_back(list).get(0), x, 0, "a list given back");
          require_close(given_back(constant).get(0), x, 0, "and a constant one");
          require_close(list.get(0), x, 0, "the caller's list");
        }
        auto twice = [](c10::List<at::Tensor> a, c10::List<at::Tensor> b) { return a.get(0) + b.get(0); } |
                     wanpar::data_parallel({.group = world, .batch = {0, 1}});
        require_close(twice(list, list), x * 2, 1e-12, "one list twice");
        auto word = [](at::Tensor x, const char* text) { return text ? x * 2 : x; } |
                    wanpar::data_parallel({.group = world});
        const char* none = nullptr;
        require_close(word(x, none), x, 0, "no text");
      },
      {1, 2, 3});
}

TEST_CASE("calls that differ in where their numbers stand are different calls") {
  on_worlds(
      [](Communicator world) {
        at::NoGradGuard no_grad;
        auto module = [](at::Tensor x, std::vector<int64_t> a, std::vector<int64_t>) {
          auto h = x.unsqueeze(1);
          auto y = at::scaled_dot_product_attention(h, h, h).squeeze(1);
          return a.size() == 2 ? y.cumsum(1) : y;
        };
        auto wrapped = module | wanpar::sequence_parallel(
                                    {.ring = world, .split = {{.arg = 0, .dim = 1}}, .min_share = 1});
        auto x = random({2, 6, 4}, 1);
        using Ints = std::vector<int64_t>;
        require_close(wrapped(x, Ints{1}, Ints{2, 3}), module(x, {1}, {2, 3}), 1e-9, "one");
        require_close(wrapped(x, Ints{1, 2}, Ints{3}), module(x, {1, 2}, {3}), 1e-9, "the other");
      },
      {2});
}

TEST_CASE("results of different names on different ranks are not mixed") {
  on_worlds(
      [](Communicator world) {
        auto x = random({4, 3}, 1);
        auto unordered = [&](at::Tensor x) {
          std::vector<std::string> keys{"alpha", "beta", "gamma", "delta", "eps", "zeta", "eta"};
          if (world.rank()) std::reverse(keys.begin(), keys.end());
          std::unordered_map<std::string, at::Tensor> result;
          for (auto& key : keys) result[key] = x + static_cast<double>(key[0]);
          return result;
        };
        auto found = (unordered | wanpar::data_parallel({.group = world}))(x);
        for (auto& [key, value] : found) require_close(value, x + static_cast<double>(key[0]), 1e-12, key);
        auto own = [&](at::Tensor x) {
          return std::map<std::string, at::Tensor>{{"rank " + std::to_string(world.rank()), x}};
        };
        require_error([&] { (own | wanpar::data_parallel({.group = world}))(x); },
                      "where rank 0 has result rank 0");
      },
      {2, 3});
}

TEST_CASE("a name that fits nothing is an error that says which") {
  on_worlds(
      [](Communicator world) {
        auto module = made<shapes::Maps>();
        auto in = shapes::Maps::in(random({3, 7, 8}, 1), random({3, 1, 8}, 2));
        auto wrapped =
            module | wanpar::sequence_parallel(
                         {.ring = world, .split = {{.arg = "0.video.words", .dim = 1}}, .min_share = 1});
        require_error([&] { wrapped(in); }, "argument 0.video.words is no tensor and holds none; see .split");
      },
      {2});
}

TEST_CASE(
    "a Model takes any number and kind of arguments, and says which it was given where they do not fit") {
  Model numbers([](at::Tensor x, double factor, int64_t n, bool negative, std::string text) {
    return (negative ? -x : x) * factor * n + static_cast<double>(text.size());
  });
  auto x = at::ones({2});
  CHECK(at::equal(numbers(x, 0.5f, 4, true, "abc"), x + 0));
  CHECK_THROWS_WITH_AS(numbers(x, "half", 4, true, "abc"), doctest::Contains("where double is wanted"),
                       wanpar::Error);
  CHECK_THROWS_WITH_AS(numbers(x), doctest::Contains("cannot be called with 1 arguments"), wanpar::Error);

  Model optional([](at::Tensor x, std::optional<at::Tensor> shift) { return shift ? x + *shift : x; });
  CHECK(at::equal(optional(x, x), x + x));
  CHECK(at::equal(optional(x, std::nullopt), x));
  CHECK(at::equal(optional(x, at::Tensor()), x));
  CHECK(at::equal(optional(x, std::optional(x)), x + x));

  ModelOf<std::tuple<at::Tensor, int>> pair([](at::Tensor x) { return std::tuple(x, 3); });
  CHECK(std::get<1>(pair(x)) == 3);
  Model wrong([](at::Tensor x) { return std::tuple(x, 3); });
  CHECK_THROWS_WITH_AS(wrong(x), doctest::Contains("where at::Tensor is wanted"), wanpar::Error);
}

}  // namespace shapes_test
