// A training is saved and goes on elsewhere: on other ranks, in other shards, under another strategy.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <unistd.h>
#include <wanpar/checkpoint/state_dict.hpp>
#include <wanpar/core/agreement.hpp>
#include <wanpar/files/safetensors.hpp>
#include <wanpar/module/own_stage.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>

#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::NamedTensors;
using wanpar::Sharding;
using wanpar::StateDict;
using wanpar::Tensors;
namespace fs = std::filesystem;

namespace state_dict_test {
namespace {

constexpr int64_t kWidth = 8;

at::Tensor draw(std::vector<int64_t> shape, int seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed + 3), at::kDouble);
}

/// Blocks with norms, a weight that is not laid out row by row, a tied one, one that nothing uses, a buffer.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(int seed, bool has_unused = true) {
    first = register_module("first", torch::nn::Linear(5, kWidth));
    blocks = register_module("blocks", torch::nn::ModuleList());
    for (int i = 0; i < 4; ++i)
      blocks->push_back(torch::nn::Sequential(torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})),
                                              torch::nn::Linear(kWidth, kWidth), torch::nn::Tanh()));
    mixer = register_parameter("mixer", at::zeros({3, kWidth}).t());
    tied = register_parameter("tied", first->bias);
    if (has_unused) unused = register_parameter("unused", at::zeros({4}));
    steps = register_buffer("steps", at::zeros({1}));
    to(at::kDouble);
    at::NoGradGuard no_grad;
    for (auto& parameter : parameters()) parameter.copy_(draw(parameter.sizes().vec(), ++seed) * 0.4);
  }
  at::Tensor forward(at::Tensor x) {
    wanpar::BlockStack stack{4,
                             [this](int64_t i, at::Tensor y, const Tensors&) {
                               return y + blocks[i]->as<torch::nn::Sequential>()->forward(y);
                             },
                             [this](int64_t i) {
                               auto block = blocks->ptr(i);
                               return wanpar::tensors_of(block);
                             }};
    return wanpar::run_blocks(stack, first(x), {}, [this](at::Tensor y) {
      return at::matmul(y + tied, mixer) * (1 + 0.1 * steps);
    });
  }
  torch::nn::Linear first{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  at::Tensor mixer, tied, unused, steps;
};
TORCH_MODULE(Net);

using Optimizer = std::unique_ptr<torch::optim::Optimizer>;
using MakeOptimizer = std::function<Optimizer(const NamedTensors& parameters, double factor)>;

/// Norms and biases do not decay. Rates, and so what a checkpoint has to bring back, are times `factor`.
template <class Kind, class Options>
MakeOptimizer in_two_groups(Options options) {
  return [options](const NamedTensors& parameters, double factor) -> Optimizer {
    Tensors decaying, others;
    std::set<const void*> seen;
    for (auto& [name, tensor] : parameters)
      if (seen.insert(tensor.unsafeGetTensorImpl()).second)  // a tied one has two names
        (name.ends_with(".1.weight") || name == "mixer" ? decaying : others).push_back(tensor);
    Options first(options), second(options);
    first.lr(options.lr() * factor).weight_decay(0.1 * factor);
    second.lr(options.lr() * factor / 2).weight_decay(0);
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(decaying, std::make_unique<Options>(first));
    groups.emplace_back(others, std::make_unique<Options>(second));
    return std::make_unique<Kind>(groups, options);
  };
}

namespace optim = torch::optim;
const std::map<std::string, MakeOptimizer>& optimizers() {
  static const std::map<std::string, MakeOptimizer> all{
      {"AdamW", in_two_groups<optim::AdamW>(optim::AdamWOptions(0.02).betas({0.8, 0.9}))},
      {"Adam", in_two_groups<optim::Adam>(optim::AdamOptions(0.02).amsgrad(true))},
      {"SGD", in_two_groups<optim::SGD>(optim::SGDOptions(0.1).momentum(0.9))},
      {"RMSprop", in_two_groups<optim::RMSprop>(optim::RMSpropOptions(0.01).momentum(0.5).centered(true))},
      {"Adagrad", in_two_groups<optim::Adagrad>(optim::AdagradOptions(0.05).lr_decay(0.1))}};
  return all;
}

/// A training, whatever carries it.
struct Training {
  Net net;
  std::function<at::Tensor(at::Tensor)> forward;
  NamedTensors parameters;
  std::function<StateDict(std::vector<torch::optim::Optimizer*>)> state;
  Optimizer optimizer = {};

  StateDict all() { return state({optimizer.get()}); }
  double step(int number) {
    optimizer->zero_grad();
    auto loss = (forward(draw({6, 5}, 100 + number)) - draw({6, 3}, 200 + number)).square().mean();
    loss.backward();
    optimizer->step();
    net->steps += 1;
    return loss.item<double>();
  }
};

template <class Model>
Training training(Net net, Model model, const MakeOptimizer& make, double factor) {
  auto shared = std::make_shared<Model>(std::move(model));
  Training all{.net = net,
               .forward = [=](at::Tensor x) { return wanpar::invoke(*shared, std::move(x)); },
               .parameters = wanpar::named_parameters(*shared),
               .state = [=](auto optimizers) { return wanpar::state_dict(*shared, std::move(optimizers)); }};
  all.optimizer = make(all.parameters, factor);
  return all;
}

using Start = std::function<Training(Net net, Communicator world, const MakeOptimizer& make, double factor)>;

Start sharded(Sharding sharding, int replicas = 1) {
  return [=](Net net, Communicator world, auto& make, double factor) {
    auto group = world.split(world.rank() % replicas), replicate = world.split(world.rank() / replicas);
    return training(
        net, net | wanpar::sharded_params({.group = group, .replicate = replicate, .sharding = sharding}),
        make, factor);
  };
}

const std::map<std::string, Start>& strategies() {
  static const std::map<std::string, Start> all{
      {"bare",
       [](Net net, Communicator, auto& make, double factor) { return training(net, net, make, factor); }},
      {"full_shard", sharded(Sharding::full_shard)},
      {"shard_grad_op", sharded(Sharding::shard_grad_op)},
      {"no_shard", sharded(Sharding::no_shard)},
      {"hybrid", sharded(Sharding::full_shard, 2)},
      {"data_parallel",
       [](Net net, Communicator world, auto& make, double factor) {
         return training(net, net | wanpar::data_parallel({.group = world}), make, factor);
       }},
      {"plain_pipeline",
       [](Net net, Communicator world, auto& make, double factor) {
         return training(net, net | wanpar::block_pipeline({.stages = world}), make, factor);
       }},
      {"pipeline",
       [](Net net, Communicator world, auto& make, double factor) {
         auto mine = wanpar::equal_ranges(4, world.size())[world.rank()];
         return training(net,
                         wanpar::OwnStage(net, "blocks", mine) |
                             wanpar::block_pipeline({.stages = world, .micro_batches = 2}),
                         make, factor);
       }},
  };
  return all;
}

/// A folder of this process alone, gone at the end.
struct Folder {
  Folder() {
    auto name = (fs::temp_directory_path() / "wanpar_state.XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  fs::path operator/(const std::string& name) const { return path / name; }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (auto& item : fs::directory_iterator(path)) all.push_back(item.path().filename());
    std::sort(all.begin(), all.end());
    return all;
  }
  fs::path path;
};

constexpr int kSaved = 3, kSteps = 6;

std::vector<double> unbroken(const MakeOptimizer& make) {
  auto all = strategies().at("bare")(Net(1), {}, make, 1);
  std::vector<double> losses;
  for (int i = 0; i < kSteps; ++i) losses.push_back(all.step(i));
  return losses;
}

void require_losses(Training& all, const std::vector<double>& expected, int begin, int end,
                    const std::string& where) {
  for (int i = begin; i < end; ++i) {
    auto loss = all.step(i);
    require(std::abs(loss - expected[i]) <= 1e-9 * expected[i],
            fmt::format("{}: loss {} is {:.12g}, unbroken {:.12g}", where, i, loss, expected[i]));
  }
}

void begin_and_save(const std::string& strategy, int ranks, const MakeOptimizer& make, const fs::path& folder,
                    const std::string& where) {
  const auto expected = unbroken(make);
  wanpar::local::run(ranks, [&](Communicator world) {
    auto all = strategies().at(strategy)(Net(1), world, make, 1);
    require_losses(all, expected, 0, kSaved, where + ", begun");
    wanpar::save_state_dict(all.all(), folder, world);
    require_losses(all, expected, kSaved, kSteps, where + ", saved");
  });
}

void go_on(const std::string& strategy, int ranks, const MakeOptimizer& make, const fs::path& folder,
           const std::string& where) {
  const auto expected = unbroken(make);
  wanpar::local::run(ranks, [&](Communicator world) {
    auto all = strategies().at(strategy)(Net(50), world, make, 3);
    wanpar::load_state_dict(all.all(), folder, world);
    require_losses(all, expected, kSaved, kSteps, where);
  });
}

}  // namespace

TEST_CASE("a training that is saved goes on elsewhere with the losses of an unbroken one") {
  Folder folder;
  const std::vector<std::pair<std::string, int>> saved{
      {"full_shard", 4},    {"shard_grad_op", 3}, {"no_shard", 2}, {"hybrid", 4},
      {"data_parallel", 3}, {"pipeline", 2},      {"bare", 1}};
  const std::vector<std::pair<std::string, int>> resumed{
      {"full_shard", 6}, {"full_shard", 1},    {"shard_grad_op", 4}, {"no_shard", 3},
      {"hybrid", 6},     {"data_parallel", 2}, {"pipeline", 3},      {"bare", 1}};
  for (auto& [optimizer, make] : optimizers())
    for (auto& [from, ranks] : saved) {
      const auto file = folder / (optimizer + from);
      const auto begun = fmt::format("{}, {} on {} ranks", optimizer, from, ranks);
      begin_and_save(from, ranks, make, file, begun);
      for (auto& [to, others] : resumed)
        go_on(to, others, make, file, fmt::format("{}, then {} on {}", begun, to, others));
    }
}

TEST_CASE("a checkpoint is one tensor for each name, spread over the ranks' files") {
  Folder folder;
  const auto& make = optimizers().at("AdamW");
  auto elements_of = [](const fs::path& file) {
    int64_t elements = 0;
    for (auto& [name, tensor] : wanpar::read_safetensors(file)) elements += tensor.numel();
    return elements;
  };
  for (std::string strategy : {"full_shard", "data_parallel"}) {
    begin_and_save(strategy, 4, make, folder / strategy, strategy);
    int64_t sum = 0, most = 0;
    for (int rank = 0; rank < 4; ++rank) {
      auto elements = elements_of(folder / strategy / fmt::format("{:05}-of-00004.safetensors", rank));
      sum += elements, most = std::max(most, elements);
    }
    begin_and_save("bare", 1, make, folder / "bare", "bare");
    const auto all = elements_of(folder / "bare" / "00000-of-00001.safetensors");
    CHECK(sum == all);
    CHECK(most < all / 2);
  }
  // One rank's file is one that others read too: tensors by their names, whole.
  auto whole = wanpar::read_safetensors(folder / "bare" / "00000-of-00001.safetensors");
  CHECK(whole.at("mixer").sizes() == at::IntArrayRef({kWidth, 3}));
  CHECK(whole.contains("optimizer/blocks.2.1.weight/exp_avg_sq"));
  CHECK(whole.contains("tied"));
  CHECK_FALSE(whole.contains("first.bias"));
}

TEST_CASE("a rank opens the files that hold its own elements, and no others") {
  Folder folder;
  const auto x = draw({10}, 1);
  auto part = [&](const at::Tensor& values, int64_t begin) {
    auto shard = std::make_shared<wanpar::ShardMetadata>(wanpar::ShardMetadata{{2, 5}, {5, 1}, begin});
    return StateDict{.tensors = {{"x", values, {}, shard}}};
  };
  wanpar::local::run(2, [&](Communicator world) {
    const auto begin = 6 * world.rank(), count = 6 - 2 * world.rank();
    wanpar::save_state_dict(part(x.narrow(0, begin, count), begin), folder / "x", world);
  });
  fs::remove(folder / "x/00001-of-00002.safetensors");
  auto few = at::zeros({3}, at::kDouble);
  wanpar::load_state_dict(part(few, 2), folder / "x", {});
  CHECK(at::equal(few, x.narrow(0, 2, 3)));
  CHECK_THROWS_WITH_AS(wanpar::load_state_dict(part(few, 4), folder / "x", {}),
                       doctest::Contains("00001-of-00002.safetensors"), wanpar::Error);
}

TEST_CASE("weights alone are taken from a checkpoint of a training, and more tensors join by a name") {
  Folder folder;
  const auto& make = optimizers().at("SGD");
  wanpar::local::run(3, [&](Communicator world) {
    auto all = strategies().at("full_shard")(Net(1), world, make, 1);
    for (int i = 0; i < 2; ++i) all.step(i);
    auto state = all.all();
    for (auto mean : all.parameters) {  // as one keeps a mean of the weights
      mean.name = "mean/" + mean.name;
      mean.tensor = mean.tensor.detach() * 2;
      state.tensors.push_back(mean);
    }
    auto step = at::full({}, 2, at::kLong);
    state.tensors.push_back({"step", step});
    wanpar::save_state_dict(state, folder / "all", world);
    wanpar::save_state_dict(all.all(), folder / "weights", world);
  });
  auto trained = strategies().at("bare")(Net(1), {}, make, 1);
  for (int i = 0; i < 2; ++i) trained.step(i);

  Net net(50);
  wanpar::load_state_dict(wanpar::state_dict(net), folder / "weights", {});
  auto mean = Net(50);
  auto step = at::zeros({}, at::kLong);
  auto state = wanpar::state_dict(net);
  for (auto& item : mean->named_parameters()) state.tensors.push_back({"mean/" + item.key(), item.value()});
  state.tensors.push_back({"step", step});
  wanpar::load_state_dict(state, folder / "all", {});
  CHECK(step.item<int64_t>() == 2);
  for (auto& item : trained.net->named_parameters()) {
    INFO(item.key());
    CHECK(at::allclose(net->named_parameters()[item.key()], item.value(), 1e-9, 1e-12));
    CHECK(at::allclose(mean->named_parameters()[item.key()], item.value() * 2, 1e-9, 1e-12));
  }
  CHECK(net->steps.item<double>() == 2);
}

TEST_CASE("a later checkpoint takes the place of a former one, in every world") {
  on_worlds(
      [](Communicator world) {
        const auto& make = optimizers().at("AdamW");
        std::unique_ptr<Folder> own;
        const fs::path folder = wanpar::broadcast_text(world, 0, [&] {
          own = std::make_unique<Folder>();
          return own->path.string();
        });
        const auto expected = unbroken(make);
        auto all = strategies().at("full_shard")(Net(1), world, make, 1);
        for (int i = 0; i < 2; ++i) all.step(i);
        wanpar::save_state_dict(all.all(), folder / "new/state", world);
        all.step(2);
        wanpar::save_state_dict(all.all(), folder / "new/state", world);
        auto other = strategies().at("shard_grad_op")(Net(50), world, make, 3);
        wanpar::load_state_dict(other.all(), folder / "new/state", world);
        require_losses(other, expected, kSaved, kSteps, "the later one");
        std::vector<std::string> names;
        for (auto& item : fs::directory_iterator(folder / "new")) names.push_back(item.path().filename());
        require(names == std::vector<std::string>{"state"}, "nothing else is left");
        world.barrier();
      },
      {1, 2, 3, 4});
}

TEST_CASE("what cannot be saved is one error on every rank, and what was there stays") {
  Folder folder;
  const auto& make = optimizers().at("SGD");
  begin_and_save("data_parallel", 2, make, folder / "good", "good");
  fs::create_directory(folder / "notes");
  std::ofstream(folder / "notes/today") << "of somebody else";
  struct Case {
    std::string says;
    std::string strategy;
    std::function<void(Training&, StateDict&, int rank)> spoil;
    std::string file = "good";
  };
  auto foreign = at::zeros({2}, at::kDouble);
  std::vector<std::unique_ptr<torch::optim::Optimizer>> kept(2);
  const std::vector<Case> cases{
      {"has other values on rank 1 than on rank 0", "data_parallel",
       [](auto& all, auto&, int rank) { all.net->mixer.data().add_(rank); }},
      {"has other values on rank 1 than on rank 0", "plain_pipeline",
       [](auto& all, auto&, int) { all.step(1); }},
      {"two tensors have the name 'mixer'", "full_shard",
       [&](auto&, auto& state, int) {
         state.tensors.push_back({"mixer", foreign});
       }},
      {"of 'x' elements [2, 3) are on no rank", "full_shard",
       [&](auto&, auto& state, int rank) {
         auto shard = std::make_shared<wanpar::ShardMetadata>(wanpar::ShardMetadata{{5}, {1}, 3 * rank});
         state.tensors.push_back({"x", at::zeros({2}), {}, shard});
       }},
      {"an optimizer steps a tensor Double[2] that is none of the named ones", "full_shard",
       [&](auto&, auto& state, int rank) {
         kept[rank] = std::make_unique<optim::SGD>(Tensors{foreign}, 0.1);
         state.optimizers = {kept[rank].get()};
       }},
      {"SGD, Adam, AdamW, RMSprop and Adagrad can be saved", "full_shard",
       [&](auto& all, auto& state, int rank) {
         kept[rank] = std::make_unique<optim::LBFGS>(tensors_in(all.parameters));
         state.optimizers = {kept[rank].get()};
       }},
      {"have other options in group 1", "data_parallel",
       [](auto& all, auto&, int rank) { all.optimizer->param_groups()[1].options().set_lr(0.5 + rank); }},
      {"safetensors has no name for ComplexDouble", "full_shard",
       [](auto&, auto& state, int) {
         state.tensors.push_back({"x", at::zeros({2}, at::kComplexDouble)});
       }},
      {"what is there is no checkpoint", "full_shard", [](auto&, auto&, int) {}, "notes"},
  };
  for (auto& one : cases) {
    wanpar::local::run(2, [&](Communicator world) {
      auto all = strategies().at(one.strategy)(Net(1), world, make, 1);
      all.step(0);
      auto state = all.all();
      one.spoil(all, state, world.rank());
      require_error([&] { wanpar::save_state_dict(state, folder / one.file, world); }, one.says);
    });
    INFO(one.says);
    CHECK(folder.names() == std::vector<std::string>{"good", "notes"});
    CHECK(fs::exists(folder / "notes/today"));
    go_on("full_shard", 2, make, folder / "good", one.says);
  }
}

TEST_CASE("a checkpoint that is not right is one error on every rank, and nothing is changed") {
  Folder folder;
  const auto& make = optimizers().at("AdamW");
  begin_and_save("full_shard", 4, make, folder / "good", "good");
  const auto index = [&] {
    std::ifstream in(folder / "good/index.json");
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  auto altered = [&](const std::string& from, const std::string& to) {
    auto text = index;
    const auto at = text.find(from);
    REQUIRE_MESSAGE(at != std::string::npos, from);
    std::ofstream(folder / "bad/index.json") << text.replace(at, from.size(), to);
  };
  const auto second = folder / "bad/00002-of-00004.safetensors";

  auto with_lr_only = [&](const NamedTensors& parameters, double) -> Optimizer {
    return std::make_unique<optim::AdamW>(tensors_in(parameters), optim::AdamWOptions(0.1));
  };
  auto other_members = [&](const NamedTensors& parameters, double factor) {
    auto renamed = parameters;
    for (auto& item : renamed)
      if (item.name == "mixer") item.name = "other";
    return make(renamed, factor);
  };
  struct Case {
    std::string says;
    std::function<void()> spoil = [] {};
    MakeOptimizer make = {};
    std::function<Net()> net = [] { return Net(50); };
  };
  auto another = [](auto change) {
    return [change] {
      Net net(50);
      change(net);
      return net;
    };
  };
  const std::vector<Case> cases{
      {"index.json cannot be read", [&] { fs::remove_all(folder / "bad"); }},
      {"index.json: not valid JSON",
       [&] { std::ofstream(folder / "bad/index.json") << index.substr(0, index.size() / 2); }},
      {"00002-of-00004.safetensors cannot be read", [&] { fs::remove(second); }},
      {"00002-of-00004.safetensors is truncated",
       [&] { fs::resize_file(second, fs::file_size(second) - 8); }},
      {"00002-of-00004.safetensors is truncated", [&] { fs::resize_file(second, 40); }},
      {"files of several checkpoints are mixed",
       [&] {
         std::map<std::string, at::Tensor> tensors;
         for (auto& [name, x] : wanpar::read_safetensors(second))
           tensors[name] = at::zeros({x.numel() + 1}, x.options());
         wanpar::write_safetensors(second, tensors);
       }},
      {"the index says is there", [&] { wanpar::write_safetensors(second, {}); }},
      {"the format is 'another", [&] { altered("wanpar checkpoint 1", "another"); }},
      {"are on no rank", [&] { altered("\"begin\": 0", "\"begin\": 1"); }},
      {"'ranks' has a value of the wrong type", [&] { altered("\"ranks\": 4", "\"ranks\": \"4\""); }},
      {"the optimizer was AdamW, and here it is SGD", {}, optimizers().at("SGD")},
      {"had 2 groups of parameters, and here it has 1", {}, with_lr_only},
      {"'mixer' was not in group 1 of AdamW", {}, other_members},
      {"there is no tensor 'extra'", {}, {}, another([](Net& net) {
         net->register_parameter("extra", at::zeros({3}, at::kDouble));
       })},
      {"there is a tensor 'unused' that nothing here", {}, {}, [] { return Net(50, false); }},
      {"'unused' is Double[4], and Double[5] is wanted", {}, {}, another([](Net& net) {
         net->unused.set_data(at::zeros({5}, at::kDouble));
       })},
      {"'unused' is Double[4], and Float[4] is wanted", {}, {}, another([](Net& net) {
         net->unused.set_data(at::zeros({4}, at::kFloat));
       })},
  };
  for (auto& one : cases)
    for (int ranks : {1, 3}) {
      fs::remove_all(folder / "bad");
      fs::copy(folder / "good", folder / "bad");
      if (one.spoil) one.spoil();
      wanpar::local::run(ranks, [&](Communicator world) {
        auto all = strategies().at("full_shard")(one.net(), world, one.make ? one.make : make, 3);
        Tensors before;
        for (auto& item : all.parameters) before.push_back(item.tensor.detach().clone());
        require_error([&] { wanpar::load_state_dict(all.all(), folder / "bad", world); }, one.says);
        for (size_t i = 0; i < before.size(); ++i)
          require_equal(all.parameters[i].tensor.detach(), before[i], one.says + ": a weight");
        require(all.optimizer->state().empty(), one.says + ": nothing is remembered");
        require(all.net->steps.item<double>() == 0, one.says + ": a buffer");
      });
    }
}

}  // namespace state_dict_test
