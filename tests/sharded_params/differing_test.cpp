// Ranks that use different parameters, and backwards that throw.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <wanpar/extend/conformance/strategy.hpp>
#include <wanpar/module/verify.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <functional>
#include <map>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::Sharding;

namespace differing_test {
namespace {

constexpr Sharding kShardings[] = {Sharding::full_shard, Sharding::shard_grad_op, Sharding::no_shard};
constexpr int64_t kWidth = 16;

/// Throws in backward when it is told to.
struct Fragile : torch::autograd::Function<Fragile> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, at::Tensor x, bool breaks) {
    context->saved_data["breaks"] = breaks;
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    if (context->saved_data["breaks"].toBool()) throw std::runtime_error("fragile");
    return {gradients[0], at::Tensor()};
  }
};

/// Blocks of a layer and two experts, of which a rank uses one or both; a block may be without, or skipped.
struct ExpertsImpl : torch::nn::Module {
  ExpertsImpl() {
    list = register_module("blocks", torch::nn::ModuleList());
    for (int i = 0; i < 5; ++i) {
      torch::nn::Sequential block;
      for (int j = 0; j < 3; ++j) block->push_back(torch::nn::Linear(kWidth, kWidth));
      list->push_back(block);
    }
  }
  at::Tensor forward(at::Tensor x) {
    for (int i = 0; i < 5; ++i) {
      if (i == skipped) continue;
      auto block = list[i]->as<torch::nn::Sequential>();
      auto layer = [&](int j) { return block->ptr(j)->as<torch::nn::Linear>(); };
      x = layer(0)->forward(x).tanh();
      for (int j : {0, 1})
        if (i != bare && (expert == j || expert == kBoth)) x = x + layer(1 + j)->forward(x);
      x = Fragile::apply(x, i == breaks);
    }
    return x;
  }
  torch::nn::ModuleList list{nullptr};
  static constexpr int kBoth = 2;
  int expert = kBoth, skipped = -1, bare = -1, breaks = -1;
};
TORCH_MODULE(Experts);

Experts experts() {
  auto module = seeded([] { return Experts(); });
  module->to(at::kDouble);
  return module;
}

at::Tensor input(int seed) {
  return at::randn({4, kWidth}, at::make_generator<at::CPUGeneratorImpl>(seed + 7), at::kDouble);
}

template <class Sharded>
void require_gradients(Sharded& sharded, const Experts& plain, const std::string& claim) {
  auto actual = wanpar::conformance::whole_gradients(sharded);
  for (auto& [name, tensor] : wanpar::named_parameters(plain)) {
    auto expected = tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor);
    require_close(actual.at(name), expected, 1e-10, claim + ", gradient of " + name);
  }
}

void zero(const std::vector<at::Tensor>& parameters) {
  for (auto& parameter : parameters) parameter.mutable_grad().reset();
}

}  // namespace

TEST_CASE("a parameter that some ranks do not use has the mean of the gradients, theirs being zero") {
  on_worlds([](Communicator world) {
    for (auto sharding : kShardings)
      for (int64_t prefetch : {0, 1, 3}) {
        auto plain = experts(), module = experts();
        auto sharded =
            module | wanpar::sharded_params({.group = world, .sharding = sharding, .prefetch = prefetch});
        for (int step = 0; step < 4; ++step) {
          zero(plain->parameters()), zero(sharded.parameters());
          auto use = [&](Experts& model, int rank) {
            model->expert = (rank + step) % 3;
            model->bare = rank == 1 ? 2 + step % 3 : -1;
            return input(10 * step + rank);
          };
          for (int rank = 0; rank < world.size(); ++rank)
            (plain->forward(use(plain, rank)).square().mean() / world.size()).backward();
          sharded(use(module, world.rank())).square().mean().backward();
          require_gradients(sharded, plain,
                            fmt::format("{} ranks, sharding {}, prefetch {}, step {}", world.size(),
                                        static_cast<int>(sharding), prefetch, step));
        }
      }
  });
}

TEST_CASE("two models in one backward, of which ranks use different parameters") {
  on_worlds([](Communicator world) {
    for (auto sharding : kShardings) {
      std::vector<Experts> plain{experts(), experts()}, modules{experts(), experts()};
      auto wrapped = [&](Experts& module) {
        return module | wanpar::sharded_params({.group = world, .sharding = sharding});
      };
      std::vector<wanpar::ShardedParams<Experts>> models{wrapped(modules[0]), wrapped(modules[1])};
      for (int step = 0; step < 4; ++step) {
        auto loss_of = [&](auto& towers, std::vector<Experts>& inner, int rank) {
          at::Tensor product;
          for (int i : {0, 1}) {
            inner[i]->expert = (rank + step + i) % 3;
            inner[i]->bare = rank == i ? 4 : -1;  // what comes first in backward comes later on one rank
            auto y = towers[i](input(10 * step + rank + 5 * i));
            product = product.defined() ? product * y : y;
          }
          return product.square().mean();
        };
        for (int i : {0, 1}) zero(plain[i]->parameters()), zero(models[i].parameters());
        auto calls = [](Experts& model) { return [&](at::Tensor x) { return model->forward(x); }; };
        std::vector<std::function<at::Tensor(at::Tensor)>> bare{calls(plain[0]), calls(plain[1])};
        for (int rank = 0; rank < world.size(); ++rank)
          (loss_of(bare, plain, rank) / world.size()).backward();
        loss_of(models, modules, world.rank()).backward();
        for (int i : {0, 1})
          require_gradients(models[i], plain[i],
                            fmt::format("{} ranks, sharding {}, step {}, model {}", world.size(),
                                        static_cast<int>(sharding), step, i));
      }
    }
  });
}

TEST_CASE("complex parameters are trained") {
  on_worlds([](Communicator world) {
    auto make = [] {
      auto layer = seeded([] { return torch::nn::Linear(kWidth, kWidth); });
      layer->to(at::kComplexDouble);
      return layer;
    };
    auto x = [](int rank) { return at::complex(input(rank), input(rank + 50)); };
    auto plain = make();
    for (int rank = 0; rank < world.size(); ++rank)
      (plain(x(rank)).abs().square().mean() / world.size()).backward();
    for (auto sharding : kShardings) {
      auto sharded = make() | wanpar::sharded_params({.group = world, .sharding = sharding});
      sharded(x(world.rank())).abs().square().mean().backward();
      auto actual = wanpar::conformance::whole_gradients(sharded);
      for (auto& item : plain->named_parameters())
        require_close(at::view_as_real(actual.at(item.key())), at::view_as_real(item.value().grad()), 1e-10,
                      item.key());
    }
  });
}

TEST_CASE("what no rank used has no gradient at all, and one that comes to be used again has") {
  on_worlds(
      [](Communicator world) {
        auto module = experts();
        auto sharded = module | wanpar::sharded_params({.group = world});
        for (int skipped : {-1, 2, 2, -1, 3}) {
          zero(sharded.parameters());
          module->skipped = skipped;
          sharded(input(world.rank())).square().mean().backward();
          for (auto& [name, shard] : sharded.named_parameters())
            require(shard.grad().defined() == !name.starts_with(fmt::format("blocks.{}.", skipped)),
                    fmt::format("{} without {}", name, skipped));
        }
      },
      {1, 2, 3});
}

TEST_CASE("ranks that skip different units are right where nothing is gathered, and refused where it is") {
  auto train = [](Communicator world, Sharding sharding) {
    auto plain = experts(), module = experts();
    auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding, .prefetch = 0});
    auto use = [&](Experts& model, int rank) {
      model->skipped = 2 + rank % 2;
      return input(rank);
    };
    for (int rank = 0; rank < world.size(); ++rank)
      (plain->forward(use(plain, rank)).square().mean() / world.size()).backward();
    sharded(use(module, world.rank())).square().mean().backward();
    require_gradients(sharded, plain, "skipped");
  };
  on_worlds(
      [&](Communicator world) {
        train(world, Sharding::no_shard);
        require_error([&] { train(world, Sharding::full_shard); }, "unit 'blocks.3'");
      },
      {2, 3});
  for (auto sharding : {Sharding::full_shard, Sharding::shard_grad_op})
    wanpar::local::run(2,
                       [&](Communicator world) {
                         require_error([&] { train(world, sharding); }, "the ranks gathered different units");
                       },
                       {.timeout = std::chrono::seconds(5), .checks = wanpar::Checks::off});
}

TEST_CASE("a backward that throws leaves no trace, and what no_sync left before it is kept") {
  on_worlds([](Communicator world) {
    for (auto sharding : kShardings)
      for (bool adds_up : {false, true}) {
        auto plain = experts(), module = experts();
        auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
        auto loss = [&](Experts& model, auto& call, int step, int rank) {
          model->expert = rank % 2;
          return call.forward(input(10 * step + rank)).square().mean();
        };
        auto expect = [&](int step) {
          for (int rank = 0; rank < world.size(); ++rank)
            (loss(plain, *plain, step, rank) / world.size()).backward();
        };
        expect(0);
        loss(module, sharded, 0, world.rank()).backward();
        if (adds_up) {
          auto later = sharded.no_sync();
          expect(1);
          loss(module, sharded, 1, world.rank()).backward();
        }
        for (int breaks : {0, 3, 4}) {
          module->breaks = breaks;
          bool threw = false;
          try {
            loss(module, sharded, 2, world.rank()).backward();
          } catch (const std::exception&) {
            threw = true;
          }
          require(threw, "the backward throws");
        }
        module->breaks = -1;
        expect(3);
        loss(module, sharded, 3, world.rank()).backward();
        require_gradients(sharded, plain, fmt::format("adds up {}", adds_up));
      }
  });
}

TEST_CASE("ranks that hold the same parameters must begin with the same values") {
  on_worlds(
      [](Communicator world) {
        auto make = [&](bool is_own) {
          auto module = experts();
          at::NoGradGuard no_grad;
          if (is_own) module->parameters()[3][0] += world.rank();
          return module;
        };
        const Communicator all = world, none;
        for (auto& [group, replicate, sharding] :
             {std::tuple{all, none, Sharding::no_shard}, std::tuple{none, all, Sharding::full_shard}}) {
          wanpar::ShardedParamsOptions options{
              .group = group, .replicate = replicate, .sharding = sharding, .sync_module_states = false};
          auto expected = experts();
          auto parted = make(true) | wanpar::sharded_params(options);
          require_error([&] { parted(input(0)); }, "sync_module_states");
          auto same = make(false) | wanpar::sharded_params(options);
          require_close(same(input(0)), expected(input(0)), 1e-12, "the same");
          options.sync_module_states = true;
          auto taken = make(true) | wanpar::sharded_params(options);
          require_close(taken(input(0)), expected(input(0)), 1e-12, "those of rank 0");
        }
      },
      {2, 3, 4});
}

TEST_CASE("a module that writes to a parameter by its own samples is refused in every sharding") {
  on_worlds(
      [](Communicator world) {
        for (auto sharding : kShardings) {
          auto module =
              seeded([] { return torch::nn::Embedding(torch::nn::EmbeddingOptions(20, 8).max_norm(0.5)); });
          auto sharded = module | wanpar::sharded_params({.group = world, .sharding = sharding});
          require_error([&] { sharded(at::arange(4) + 4 * world.rank()); },
                        sharding == Sharding::no_shard ? "the module writes to its parameter weight"
                                                       : "the module wrote to a parameter of unit 'root'");
        }
      },
      {2, 4});
}

TEST_CASE("a sharded module is verified against its own, bare one") {
  on_worlds([](Communicator world) {
    for (auto sharding : kShardings) {
      auto sharded = experts() | wanpar::sharded_params({.group = world, .sharding = sharding});
      for (int run = 0; run < 2; ++run) {
        auto found = wanpar::verify(sharded, {input(run)});
        require(!found.first && found.difference == 0 && found.operators > 20, "nothing differs");
      }
      sharded(input(1)).square().mean().backward();
      if (sharding == Sharding::full_shard && world.size() > 1)
        require(sharded.memory().resident == 0, "the units went again");
    }
  });
}

}  // namespace differing_test
