#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::block_pipeline;
using wanpar::Communicator;
using wanpar::Side;

namespace pipeline_gradients_test {
namespace {

const std::vector<int> kWorlds{1, 2, 3, 4};
constexpr auto kDouble = at::kDouble;

/// This rank has the gradients of its own blocks and of all that is outside of blocks, as one rank alone has
/// them; of other blocks none.
template <class M>
void require_gradients(M& module, const std::vector<at::Tensor>& expected, const std::string& prefix,
                       wanpar::BlockRange mine, const std::string& claim) {
  auto parameters = wanpar::named_parameters(module);
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto& [name, tensor] = parameters[i];
    bool in_block = name.rfind(prefix, 0) == 0;
    auto block = in_block ? std::stoll(name.substr(prefix.size())) : 0;
    auto where = claim + ", " + name;
    if (in_block && (block < mine.begin || block >= mine.end)) {
      require(!tensor.grad().defined(), where + " has no gradient here");
      continue;
    }
    require(tensor.grad().defined(), where + " has a gradient");
    auto scale = std::max(1.0, expected[i].abs().max().item<double>());
    require_close(tensor.grad() / scale, expected[i] / scale, 1e-9, where);
  }
}

at::Tensor squares(const at::Tensor& y, const at::Tensor& target) { return at::mse_loss(y, target); }

}  // namespace

TEST_CASE("backward() on every rank gives one rank's gradients, those of inputs and side tensors too") {
  on_worlds(
      [&](Communicator world) {
        auto alone = stacked_model(6, kDouble), mine = stacked_model(6, kDouble);
        auto model = mine | block_pipeline({.stages = world,
                                            .micro_batches = 3,
                                            .ranges = wanpar::ByBytes{},
                                            .side = {Side::split, Side::replicate}});
        for (int64_t batch : {7, 2, 7}) {
          auto leaf = [](at::Tensor x) { return x.requires_grad_(); };
          at::Tensor x[2], time[2], bias[2], y[2];
          zero_gradients(alone), zero_gradients(mine);
          for (int i : {0, 1}) {
            x[i] = leaf(numbers({batch, 5}, kDouble)), time[i] = leaf(numbers({batch, 1}, kDouble, 1));
            bias[i] = leaf(numbers({12}, kDouble, 2));
            for (int twice = 0; twice < 2; ++twice) {  // gradients add up
              y[i] = i == 0 ? alone(x[0], time[0], bias[0]) : model(x[1], time[1], bias[1]);
              y[i].square().sum().backward();
            }
          }
          auto claim = fmt::format("{} stages, batch {}", world.size(), batch);
          require_close(y[1], y[0], 1e-12, claim);
          auto range = world.size() > 1 ? model.ranges()[world.rank()] : wanpar::BlockRange{0, 6};
          require_gradients(mine, gradients(alone), "block", range, claim);
          for (auto* pair : {x, time, bias})
            require_close(pair[1].grad(), pair[0].grad(), 1e-9, claim + ", input");
        }
      },
      kWorlds);
}

TEST_CASE("train_step gives the loss and the gradients of one rank, in 1F1B, uneven micro-batches too") {
  on_worlds(
      [&](Communicator world) {
        for (int64_t micro_batches : {1, 2, 4, 6}) {
          auto alone = stacked_model(5, kDouble), mine = stacked_model(5, kDouble);
          auto model = mine | block_pipeline({.stages = world, .micro_batches = micro_batches});
          for (int64_t batch : {8, 5, 5}) {
            auto x = numbers({batch, 5}, kDouble), time = numbers({batch, 1}, kDouble, 1);
            auto target = numbers({batch, 3}, kDouble, 2);
            auto expected = squares(alone(x, time), target);
            expected.backward();
            auto loss = model.train_step({x, time}, target, squares);  // gradients add up over the batches
            auto claim =
                fmt::format("{} stages, {} micro-batches, batch {}", world.size(), micro_batches, batch);
            require_close(loss, expected.detach(), 1e-9, claim + ", loss");
            auto range = world.size() > 1 ? model.ranges()[world.rank()] : wanpar::BlockRange{0, 5};
            require_gradients(mine, gradients(alone), "block", range, claim);
          }
        }
      },
      kWorlds);
}

TEST_CASE("a Sequential and a TorchScript module train likewise") {
  on_worlds(
      [&](Communicator world) {
        auto x = numbers({6, 5}, kDouble), target = numbers({6, 7}, kDouble, 2);
        auto alone = sequential(kDouble), mine = sequential(kDouble);
        auto model = mine | block_pipeline({.stages = world, .micro_batches = 4});
        at::mse_loss(alone->forward(x), target, at::Reduction::Sum).backward();
        auto sum = [](auto y, auto t) { return at::mse_loss(y, t, at::Reduction::Sum); };
        model.train_step({x}, target, sum, {.loss = wanpar::LossOf::sum});
        auto range = world.size() > 1 ? model.ranges()[world.rank()] : wanpar::BlockRange{0, 5};
        require_gradients(mine, gradients(alone), "", range, "Sequential");

        auto script = scripted(4, kDouble), script_mine = scripted(4, kDouble);
        auto piped =
            script_mine | block_pipeline({.stages = world, .micro_batches = 2, .side = {Side::split}});
        auto shift = numbers({6, 6}, kDouble, 3);
        for (int call = 0; call < 3; ++call) {  // TorchScript optimizes in its second run
          zero_gradients(script), zero_gradients(script_mine);
          script.forward({x, shift}).toTensor().sum().backward();
          piped(x, shift).sum().backward();
          range = world.size() > 1 ? piped.ranges()[world.rank()] : wanpar::BlockRange{0, 4};
          require_gradients(script_mine, gradients(script), "blocks.layer", range, "TorchScript");
        }
      },
      {1, 2, 3});
}

TEST_CASE(
    "train_step of a module that goes on behind its blocks by itself is an error that shows how to go on") {
  struct PlainImpl : torch::nn::Module {
    PlainImpl() {
      for (int i = 0; i < 4; ++i)
        blocks.push_back(register_module("block" + std::to_string(i), torch::nn::Linear(4, 4)));
    }
    at::Tensor forward(at::Tensor x) { return wanpar::run_blocks(blocks, x).tanh(); }
    std::vector<torch::nn::Linear> blocks;
  };
  auto lock = seeded(9);
  auto plain = std::make_shared<PlainImpl>();
  lock.unlock();
  on_worlds(
      [&](Communicator world) {
        auto model = plain | block_pipeline({.stages = world, .micro_batches = 2});
        auto x = numbers({4, 4}), target = numbers({4, 4}, at::kFloat, 1);
        require_error([&] { model.train_step({x}, target, squares); },
                      "give it to run_blocks as its continuation");
        at::NoGradGuard no_grad;
        require_close(model(x), plain->forward(x), 1e-6, "forward");
      },
      {2, 3});
}

TEST_CASE("a parameter that two stages use is summed by train_step and refused by backward()") {
  struct TiedImpl : torch::nn::Module {
    TiedImpl() { shared = register_module("shared", torch::nn::Linear(4, 4)); }
    at::Tensor forward(at::Tensor x) {
      std::vector<torch::nn::Linear> blocks(4, shared);
      return wanpar::run_blocks(blocks, x, [](at::Tensor y) { return y; });
    }
    torch::nn::Linear shared{nullptr};
  };
  auto made = [] {
    auto lock = seeded(9);
    auto model = std::make_shared<TiedImpl>();
    model->to(kDouble);
    return model;
  };
  on_worlds(
      [&](Communicator world) {
        auto alone = made(), mine = made();
        auto model = mine | block_pipeline({.stages = world, .micro_batches = 2});
        auto x = numbers({4, 4}, kDouble), target = numbers({4, 4}, kDouble, 1);
        require_error([&] { model(x); }, "is used by a block that is not the only one to hold it");
        squares(alone->forward(x), target).backward();
        model.train_step({x}, target, squares);
        require_close(mine->shared->weight.grad(), alone->shared->weight.grad(), 1e-9, "summed");
      },
      {2, 3});
}

TEST_CASE(
    "training moves every rank to the weights of one rank, and rebalance moves blocks with their weights") {
  on_worlds(
      [&](Communicator world) {
        auto alone = stacked_model(6, kDouble), mine = stacked_model(6, kDouble);
        auto model = mine | block_pipeline({.stages = world, .micro_batches = 4});
        auto x = numbers({8, 5}, kDouble), time = numbers({8, 1}, kDouble, 1),
             target = numbers({8, 3}, kDouble, 2);
        auto step = [](auto& module) {
          at::NoGradGuard no_grad;
          for (auto& [name, tensor] : wanpar::named_parameters(module))
            if (tensor.grad().defined()) tensor.sub_(0.1 * tensor.grad());
          zero_gradients(module);
        };
        for (int i = 0; i < 6; ++i) {
          auto expected = squares(alone(x, time), target);
          expected.backward();
          require_close(model.train_step({x, time}, target, squares), expected.detach(), 1e-9, "loss");
          step(alone), step(mine);
          if (i % 2) model.rebalance();
        }
        model.synchronize();
        for (size_t i = 0; i < mine->parameters().size(); ++i)
          require_close(mine->parameters()[i], alone->parameters()[i], 1e-9, "every rank has every weight");
      },
      {2, 3});
}

TEST_CASE("the payload of training is that of the formula") {
  on_worlds(
      [&](Communicator world) {
        wanpar::Recording recording;
        auto mine = stacked_model(6, kDouble);
        auto model = mine | block_pipeline({.stages = recording(world), .micro_batches = 3});
        auto x = numbers({7, 5}, kDouble), time = numbers({7, 1}, kDouble, 1),
             target = numbers({7, 3}, kDouble, 2);
        int64_t stages = world.size(), activations = (stages - 1) * 7 * 12 * 8;
        int64_t outside = 0, outside_count = 0;
        for (auto& item : mine->named_parameters())
          if (item.key().rfind("block", 0) != 0) outside += item.value().numel() * 8, ++outside_count;
        for (int call = 0; call < 2; ++call) {
          recording.clear();
          model.train_step({x, time}, target, squares);
          auto compared = 24 + 16 * 3;  // two inputs and the target
          auto expected = 2 * activations + 2 * (stages - 1) * (outside + 8 * (2 + outside_count)) +
                          stages * (stages - 1) * compared;
          if (call == 0) expected += stages * (stages - 1) * 1024;
          auto bytes = world.all_reduce(at::tensor({recording.total().bytes})).get().item<int64_t>();
          // Where a library's all-reduce is booked by its formula, each rank's part is rounded down.
          auto rounding = is_one_of_several_processes() ? stages * (outside_count + 1) : 0;
          require(std::abs(bytes - expected) <= rounding,
                  fmt::format("{} bytes left the ranks, {} were expected", bytes, expected));
        }
      },
      {2, 3, 4});
}

TEST_CASE("gradients that would not be right are refused") {
  on_worlds(
      [&](Communicator world) {
        auto x = numbers({4, 4}, kDouble);
        auto weight = torch::ones({4}, at::TensorOptions(kDouble)).requires_grad_();
        auto unlisted = wanpar::stack_of(
            [](at::Tensor x) { return x; }, 4,
            [&](int64_t, at::Tensor x, const std::vector<at::Tensor>&) { return x * weight; },
            [](at::Tensor x) { return x; });
        require_error([&] { (unlisted | block_pipeline({.stages = world}))(x); }, "set BlockStack::tensors");

        auto model = stacked_model(4, kDouble) | block_pipeline({.stages = world, .micro_batches = 2});
        auto input = numbers({4, 5}, kDouble), time = numbers({1, 1}, kDouble);
        auto y = model(input, time);
        y.sum().backward({}, true);
        require_error([&] { y.sum().backward(); }, "once only");
        require_error([&] { model.train_step({input, time}, x, squares); }, "name in .replicate");
      },
      {2, 3});
}

TEST_CASE("parameters may be frozen and set free between passes") {
  on_worlds(
      [&](Communicator world) {
        for (bool by_steps : {false, true}) {
          auto alone = sequential(kDouble), mine = sequential(kDouble);
          auto model = mine | block_pipeline({.stages = world, .micro_batches = 2});
          auto x = numbers({4, 5}, kDouble);
          for (bool trains : {true, false, true, false}) {
            for (auto* module : {&alone, &mine}) {
              zero_gradients(*module);
              for (auto& parameter : (*module)->children()[0]->parameters())
                parameter.set_requires_grad(trains);
            }
            auto target = at::zeros_like(alone->forward(x)).detach();
            squares(alone->forward(x), target).backward();
            if (by_steps)
              model.train_step({x}, target, squares);
            else
              squares(model(x), target).backward();
            auto expected = alone->named_parameters(), actual = mine->named_parameters();
            auto range = wanpar::equal_ranges(5, world.size())[world.rank()];
            for (auto& item : actual) {
              auto gradient = expected[item.key()].grad();
              auto block = std::stoll(item.key());  // "2.weight"
              bool has_one = gradient.defined() && range.begin <= block && block < range.end;
              require(item.value().grad().defined() == has_one, item.key() + " has a gradient where trained");
              if (has_one) require_close(item.value().grad(), gradient, 1e-9, "frozen");
            }
          }
        }
      },
      {1, 2, 3});
}

TEST_CASE("train_step around a DataParallel is refused on every rank, and says what averages instead") {
  on_worlds(
      [&](Communicator world) {
        wanpar::Mesh mesh(world, {{"data", 2}, {"pipe", world.size() / 2}});
        auto x = numbers({4, 5}), time = numbers({4, 1}), target = numbers({4, 3});
        auto model = stacked_model() | wanpar::data_parallel({.group = mesh["data"], .batch = {0, 1}}) |
                     block_pipeline({.stages = mesh["pipe"], .side = {Side::split, Side::replicate}});
        for (int twice = 0; twice < 2; ++twice)
          require_error([&] { model.train_step({x, time}, target, squares); }, "TrainOptions::replicas");
      },
      {4});
}

}  // namespace pipeline_gradients_test
