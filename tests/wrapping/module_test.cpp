// A wrapped module is a module: it can be trained, cast, cleared, asked for its parameters, and be a part of
// another.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <wanpar/module/model.hpp>
#include <wanpar/module/own_stage.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Model;

namespace module_test {
namespace {

struct NetImpl : torch::nn::Module {
  at::Tensor forward(at::Tensor x) { return dropout(norm(linear(x))); }
  torch::nn::Linear linear = register_module("linear", torch::nn::Linear(4, 4));
  torch::nn::LayerNorm norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
  torch::nn::Dropout dropout = register_module("dropout", torch::nn::Dropout(0.9));
};
TORCH_MODULE(Net);

template <class Wrapped>
void require_a_module(Wrapped wrapped, Net net, const std::string& name) {
  require(wrapped.is_training() && net->is_training(), name + " is training");
  wrapped.eval();
  require(!wrapped.is_training() && !net->dropout->is_training(), name + " reaches what is inside");
  wrapped.train();
  require(wrapped.is_training() && net->dropout->is_training(), name + " trains again");
  require(wrapped.named_parameters().size() == 4, name + " lists its parameters");
  require(wrapped.named_parameters()[0].name == "linear.weight", name + " lists them by their names");
  require(!wrapped.parameters().empty(), name + " has something to step");
  for (auto& parameter : wrapped.parameters()) parameter.mutable_grad() = at::ones_like(parameter);
  wrapped.zero_grad(false);
  for (auto& parameter : wrapped.parameters())
    require(parameter.grad().defined() && parameter.grad().eq(0).all().template item<bool>(),
            name + " clears");
  wrapped.zero_grad();
  for (auto& parameter : wrapped.parameters())
    require(!parameter.grad().defined(), name + " drops gradients");
}

template <class Wrapped>
void require_casts(Wrapped wrapped, Net net, const std::string& name) {
  wrapped.to(at::kDouble);
  require(net->linear->weight.scalar_type() == at::kDouble, name + " casts");
  wrapped.to(at::kCPU);
  wrapped.eval();
  require(wrapped(at::ones({2, 4}, at::kDouble)).scalar_type() == at::kDouble, name + " computes in it");
}

}  // namespace

TEST_CASE("a wrapped module has the ways of a module") {
  on_worlds(
      [](Communicator world) {
        Net a, b, c, d, e, f, g;
        require_a_module(a | wanpar::sequence_parallel({.ring = world, .min_share = 1}), a,
                         "SequenceParallel");
        require_a_module(b | wanpar::data_parallel({.group = world}), b, "DataParallel");
        require_a_module(c | wanpar::sharded_params({.group = world}), c, "ShardedParams");
        require_a_module(d | wanpar::activation_checkpointing(), d, "ActivationCheckpointing");
        require_a_module(e | wanpar::block_distribution({.devices = {at::kCPU}}), e, "BlockDistribution");
        require_a_module(Model(f) | wanpar::data_parallel({.group = world}), f, "a wrapped Model");
        require_a_module(Model(g | wanpar::data_parallel({.group = world})), g,
                         "a Model of a wrapped module");

        Net h, i;
        require_casts(h | wanpar::data_parallel({.group = world}), h, "DataParallel");
        require_casts(Model(i), i, "a Model");
        auto sharded = Net() | wanpar::sharded_params({.group = world});
        require_error([&] { sharded.to(at::kDouble); }, "ShardedParams: to() cannot move shards");
        auto placed = Net() | wanpar::block_distribution({.devices = {at::kCPU}});
        require_error([&] { placed.to(at::kCPU); }, "BlockDistribution: to(cpu) would gather the blocks");
        require(sharded.inner()->is_training(), "inner() is the module");
      },
      {1, 2});
}

TEST_CASE("a function has no mode that a Model could know of") {
  Model function([](at::Tensor x) { return x; });
  CHECK_THROWS_WITH_AS(function.eval(), doctest::Contains("train() of a function"), wanpar::Error);
  CHECK_THROWS_WITH_AS(function.is_training(), doctest::Contains("of a function"), wanpar::Error);
  CHECK_THROWS_WITH_AS(function.to(at::kDouble), doctest::Contains("to() of a function"), wanpar::Error);
  CHECK_FALSE(function.training_mode());
}

TEST_CASE("TorchScript has its ways too") {
  auto module = torch::jit::load(TEST_DATA "/attention.pt");
  auto wrapped = module | wanpar::data_parallel({});
  wrapped.eval();
  CHECK_FALSE(module.is_training());
  wrapped.to(at::kDouble);
  CHECK((wrapped.named_parameters()[0].tensor.scalar_type() == at::kDouble));
  CHECK(wrapped(at::ones({1, 3, 48}, at::kDouble)).sizes() == at::IntArrayRef({1, 3, 48}));
  CHECK(wrapped.forward(std::vector<c10::IValue>{at::ones({1, 3, 48}, at::kDouble)}).isTensor());
}

TEST_CASE("a wrapped module is a part of a module") {
  struct Whole : torch::nn::Module {
    explicit Whole(Communicator world)
        : net(Net() | wanpar::data_parallel({.group = world, .mode = wanpar::BatchMode::local})) {
      register_module("net", net.inner().ptr());
    }
    at::Tensor forward(at::Tensor x) { return net(x).sum(); }
    wanpar::DataParallel<Net> net;
  };
  on_worlds(
      [](Communicator world) {
        auto whole = std::make_shared<Whole>(world);
        require(whole->parameters().size() == 4, "its parameters are the whole's");
        require(whole->named_parameters().contains("net.linear.weight"), "by its names");
        whole->eval();
        require(!whole->net.is_training(), "so is its mode");
        whole->forward(at::ones({2, 4}) * (world.rank() + 1)).backward();
        auto gradient = whole->net.inner()->norm->bias.grad();
        require_close(gradient, at::full({4}, 2.0), 1e-6, "it trains there");
      },
      {1, 2});
}

TEST_CASE("a stage lists its own blocks alone, and a pipeline takes it so") {
  struct StackImpl : torch::nn::Module {
    StackImpl() {
      torch::nn::ModuleList list;
      for (int i = 0; i < 4; ++i) list->push_back(torch::nn::Linear(4, 4));
      blocks = register_module("blocks", list);
      head = register_module("head", torch::nn::Linear(4, 2));
    }
    at::Tensor forward(at::Tensor x) {
      return wanpar::run_blocks<torch::nn::LinearImpl>(blocks, x,
                                                       [this](at::Tensor y) { return head(y.tanh()); });
    }
    torch::nn::ModuleList blocks;
    torch::nn::Linear head{nullptr};
  };
  torch::manual_seed(1);
  auto bare = std::make_shared<StackImpl>();
  on_worlds(
      [&](Communicator world) {
        auto module = std::make_shared<StackImpl>();
        auto mine = wanpar::equal_ranges(4, world.size())[world.rank()];
        for (auto& item : module->named_parameters()) {
          at::NoGradGuard no_grad;
          item.value().copy_(bare->named_parameters()[item.key()]);
        }
        wanpar::OwnStage stage(module, "blocks", mine);
        require(stage.named_parameters().size() == 2 + 2 * static_cast<size_t>(mine.size()), "its own alone");
        auto piped = stage | wanpar::block_pipeline({.stages = world, .micro_batches = 2});
        auto x = at::arange(12.0).view({3, 4});
        require_close(piped(x), bare->forward(x), 1e-5, "forward");
        auto loss = piped.train_step({x}, at::ones({3, 2}),
                                     [](at::Tensor y, at::Tensor t) { return at::mse_loss(y, t); });
        require_close(loss, at::mse_loss(bare->forward(x), at::ones({3, 2})).to(at::kDouble), 1e-5,
                      "training");
        if (world.size() > 1)
          require_error([&] { piped.synchronize(); }, "needs every parameter to have memory on every rank");
      },
      {1, 2, 3});
}

}  // namespace module_test
