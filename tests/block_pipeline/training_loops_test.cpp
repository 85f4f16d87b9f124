// What a user's own loop does around a pipeline.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn/functional/loss.h>
#include <torch/optim/adamw.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/transport/local.hpp>

#include "models.hpp"
#include "worlds.hpp"

using wanpar::block_pipeline;
using wanpar::Communicator;

namespace training_loops_test {
namespace {

constexpr auto kDouble = at::kDouble;

at::Tensor squares(const at::Tensor& y, const at::Tensor& target) { return at::mse_loss(y, target); }

template <class M>
void fill(M& module, int seed = 100) {
  module->to(kDouble);
  at::NoGradGuard no_grad;
  for (auto& parameter : module->parameters())
    parameter.copy_(numbers(parameter.sizes().vec(), kDouble, seed++) * 0.4);
}

template <class... Layers>
torch::nn::Sequential chain(Layers... layers) {
  torch::nn::Sequential made(layers...);
  fill(made);
  return made;
}

torch::nn::ReLU in_place() { return torch::nn::ReLU(torch::nn::ReLUOptions(true)); }

/// What a test wants its blocks to do beside what they do.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t layers = 4) {
    in = register_module("in", torch::nn::Linear(5, 8));
    time = register_module("time", torch::nn::Linear(5, 8));
    for (int64_t i = 0; i < layers; ++i)
      blocks.push_back(register_module("block" + std::to_string(i), torch::nn::Linear(8, 8)));
    scale = register_parameter("scale", torch::ones({8}));
    out = register_module("out", torch::nn::Linear(8, 3));
  }
  at::Tensor forward(at::Tensor x) {
    auto h = in(x);
    condition = time(x);
    wanpar::BlockStack stack{static_cast<int64_t>(blocks.size()),
                             [this](int64_t i, at::Tensor y, const std::vector<at::Tensor>&) {
                               if (writes && i == 0) y.relu_();
                               y = at::tanh(blocks[i](y));
                               if (reads_condition) y = y + condition.narrow(0, 0, y.size(0));
                               return shares_scale ? y * scale : y;
                             },
                             [this](int64_t i) { return wanpar::tensors_of(blocks[i]); }};
    return wanpar::run_blocks(stack, h, {}, [this, h](at::Tensor y) {
      y = out(y * scale);
      return uses_again ? y + h.narrow(1, 0, 3) : y;
    });
  }
  bool writes = false, reads_condition = false, shares_scale = false, uses_again = false;
  torch::nn::Linear in{nullptr}, time{nullptr}, out{nullptr};
  std::vector<torch::nn::Linear> blocks;
  at::Tensor scale, condition;
};
TORCH_MODULE(Net);

Net net(int seed = 100) {
  auto lock = seeded(1);
  Net made;
  lock.unlock();
  fill(made, seed);
  return made;
}

/// Gradients where they are here are those of one rank; those outside of blocks are here.
void require_gradients_of(Net& mine, Net& expected, const std::string& claim) {
  auto wanted = expected->named_parameters();
  for (auto& item : mine->named_parameters()) {
    auto& gradient = wanted[item.key()].grad();
    bool is_outside = item.key().rfind("block", 0) != 0;
    require(!is_outside || item.value().grad().defined() == gradient.defined(), claim + ", " + item.key());
    if (item.value().grad().defined())
      require_close(item.value().grad(), gradient, 1e-9, claim + ", " + item.key());
  }
}

}  // namespace

TEST_CASE("train_step and an optimizer, which clears gradients either way, train as one rank does") {
  on_worlds(
      [](Communicator world) {
        for (bool to_none : {true, false}) {
          auto alone = net(), mine = net();
          auto model = mine | block_pipeline({.stages = world, .micro_batches = 2});
          torch::optim::AdamW one(alone->parameters(), 0.01), here(mine->parameters(), 0.01);
          for (int step = 0; step < 4; ++step) {
            auto x = numbers({6, 5}, kDouble, step), target = numbers({6, 3}, kDouble, 50 + step);
            one.zero_grad(to_none), here.zero_grad(to_none);
            auto expected = squares(alone(x), target);
            expected.backward();
            require_close(model.train_step({x}, target, squares), expected.detach(), 1e-9,
                          fmt::format("step {}", step));
            one.step(), here.step();
          }
        }
      },
      {1, 2, 4});
}

TEST_CASE("the same beside replicas") {
  on_worlds(
      [](Communicator world) {
        wanpar::Mesh mesh(world, {{"data", 2}, {"pipe", world.size() / 2}});
        auto alone = net(), mine = net();
        auto model = mine | block_pipeline({.stages = mesh["pipe"], .micro_batches = 2});
        torch::optim::AdamW one(alone->parameters(), 0.01), here(mine->parameters(), 0.01);
        for (int step = 0; step < 3; ++step) {
          auto x = numbers({8, 5}, kDouble, step), target = numbers({8, 3}, kDouble, 50 + step);
          auto half = [&](const at::Tensor& whole) { return whole.chunk(2)[mesh.index("data")]; };
          one.zero_grad(), here.zero_grad();
          auto expected = squares(alone(x), target);
          expected.backward();
          auto loss = model.train_step({half(x)}, half(target), squares, {.replicas = mesh["data"]});
          require_close(loss, expected.detach(), 1e-9, fmt::format("step {}", step));
          one.step(), here.step();
        }
      },
      {2, 4});
}

TEST_CASE("stages may begin with operators that write to what they are given") {
  on_worlds(
      [](Communicator world) {
        auto make = [] {
          return chain(torch::nn::Linear(5, 5), in_place(), torch::nn::Linear(5, 5), in_place(),
                       torch::nn::Linear(5, 5), in_place(), torch::nn::Linear(5, 5), in_place());
        };
        for (int64_t micro_batches : {1, 2})
          for (bool by_steps : {false, true}) {
            auto alone = make(), mine = make();
            auto ranges = world.size() == 1   ? wanpar::BlockRanges{{0, 8}}
                          : world.size() == 2 ? wanpar::BlockRanges{{0, 3}, {3, 8}}
                                              : wanpar::BlockRanges{{0, 1}, {1, 3}, {3, 5}, {5, 8}};
            auto model =
                mine | block_pipeline({.stages = world, .micro_batches = micro_batches, .ranges = ranges});
            for (int step = 0; step < 2; ++step) {
              auto x = numbers({4, 5}, kDouble, step), target = numbers({4, 5}, kDouble, 9);
              squares(alone->forward(x), target).backward();
              if (by_steps)
                model.train_step({x}, target, squares);
              else
                squares(model(x), target).backward();
            }
            for (size_t i = 0; i < mine->parameters().size(); ++i)
              if (mine->parameters()[i].grad().defined())
                require_close(mine->parameters()[i].grad(), alone->parameters()[i].grad(), 1e-9, "gradient");
          }
      },
      {1, 2, 4});
}

TEST_CASE(
    "the first block may write to what comes before it, and what comes behind sees that, or is refused") {
  on_worlds(
      [](Communicator world) {
        auto alone = net(), mine = net();
        alone->writes = mine->writes = true;
        auto model = mine | block_pipeline({.stages = world});
        auto x = numbers({4, 5}, kDouble);
        for (bool uses_again : {false, true}) {
          alone->uses_again = mine->uses_again = uses_again;
          at::NoGradGuard no_grad;
          for (int twice = 0; twice < 2; ++twice) require_close(model(x), alone(x), 1e-12, "values");
        }
        if (world.size() == 1) return;
        require_error([&] { model(x); }, "is used behind the blocks");
        alone->uses_again = mine->uses_again = false;
        alone(x).square().sum().backward();
        model(x).square().sum().backward();
        require_gradients_of(mine, alone, "gradients");
        require_error(
            [&] {
              model.train_step({x}, numbers({4, 3}, kDouble), squares);
            },
            "the first block writes to what it is given");
      },
      {1, 2, 4});
}

TEST_CASE("stages that are given other batches are told so, by every way to call them") {
  on_worlds(
      [](Communicator world) {
        auto mine = net();
        auto model = mine | block_pipeline({.stages = world, .micro_batches = 2});
        auto x = numbers({4, 5}, kDouble), target = numbers({4, 3}, kDouble, 1);
        auto own = numbers({4, 5}, kDouble, world.rank());
        for (int twice = 0; twice < 2; ++twice) {
          model(x);
          require_error([&] { model(own); }, "every stage is to be given the same global batch");
          model.train_step({x}, target, squares);
          require_error([&] { model.train_step({own}, target, squares); },
                        "the ranks have different batches");
          require_error([&] { model.train_step({x}, target.roll(world.rank(), 0), squares); },
                        "the ranks have different batches: target");
        }
      },
      {2, 4});
}

TEST_CASE("ranks that begin with other weights take those of rank 0, where all hold them") {
  on_worlds(
      [](Communicator world) {
        auto expected = net(), mine = net(100 + 20 * world.rank());
        auto model = mine | block_pipeline({.stages = world});
        auto x = numbers({4, 5}, kDouble);
        require_close(model(x), expected(x), 1e-12, "as rank 0 alone");
        model(x).square().sum().backward();
        expected(x).square().sum().backward();
        require_gradients_of(mine, expected, "gradients");
        auto left = net(100 + 20 * world.rank());
        auto before = left->out->weight.detach().clone();
        left | block_pipeline({.stages = world, .sync_module_states = false});
        require_equal(left->out->weight.detach(), before, "left alone");
      },
      {1, 2, 4});
}

TEST_CASE("what comes before and behind the blocks is alike on every rank, or refused") {
  on_worlds(
      [](Communicator world) {
        auto x = numbers({4, 5}, kDouble), target = numbers({4, 3}, kDouble, 1);
        auto over = [](Net net, auto before, auto after) {
          auto block = [net](int64_t i, at::Tensor y, const std::vector<at::Tensor>&) mutable {
            return at::tanh(net->blocks[i](y));
          };
          return wanpar::stack_of(before, 4, block, after,
                                  [net](int64_t i) { return wanpar::tensors_of(net->blocks[i]); });
        };
        auto expected = net(), mine = net(100 + 20 * world.rank());
        auto chain = over(mine, mine->in, mine->out);
        auto model = chain | block_pipeline({.stages = world});
        require(model.parameters().size() == 12, "those of modules before and behind the blocks are listed");
        auto bare = over(expected, expected->in, expected->out);
        squares(bare(x), target).backward();
        model.train_step({x}, target, squares);
        require_gradients_of(mine, expected, "as rank 0 alone");
        if (world.size() == 1) return;

        auto whole = net();
        auto same = [whole](at::Tensor x) mutable { return whole->in(x); };
        auto parted = [&](double by) { return [=](at::Tensor x) { return x * by; }; };
        auto before =
            over(
                whole, [=](at::Tensor x) mutable { return same(x) * (1 + world.rank()); }, parted(2)) |
            block_pipeline({.stages = world});
        require_error([&] { before(x); }, "what comes before the blocks");
        auto after = over(whole, same, parted(1 + world.rank())) | block_pipeline({.stages = world});
        require_error([&] { after(x); }, "what comes after the blocks");
        world.barrier();
      },
      {1, 2, 4});
}

TEST_CASE(
    "a gradient that would be whole on no rank is refused in the pass that makes it, or summed by "
    "train_step") {
  on_worlds(
      [](Communicator world) {
        if (world.size() == 1) return;
        for (bool checkpointed : {false, true})
          for (bool Net::Impl::*flag : {&NetImpl::reads_condition, &NetImpl::shares_scale}) {
            auto mine = net(), alone = net();
            wanpar::Model inner =
                checkpointed ? wanpar::Model(mine | wanpar::activation_checkpointing()) : wanpar::Model(mine);
            auto model = inner | block_pipeline({.stages = world});
            auto x = numbers({4, 5}, kDouble), target = numbers({4, 3}, kDouble, 1);
            model(x).sum().backward();  // as yet there is nothing to refuse
            mine->zero_grad();
            (*mine).*flag = true, (*alone).*flag = true;
            require_error([&] { model(x); }, "its gradient would not be whole");
            {
              at::NoGradGuard no_grad;
              require_close(model(x), alone(x), 1e-12, "without gradients");
            }
            if (checkpointed) continue;
            squares(alone(x), target).backward();
            model.train_step({x}, target, squares);
            require_gradients_of(mine, alone, "train_step");
          }
      },
      {1, 2, 4});
}

TEST_CASE("a loss that a block keeps is refused where its gradient would have to pass a stage") {
  on_worlds(
      [](Communicator world) {
        auto mine = net();
        at::Tensor kept;
        auto blocks = mine->blocks;
        auto stack = wanpar::stack_of(
            mine->in, 4,
            [&, blocks](int64_t i, at::Tensor x, const std::vector<at::Tensor>&) mutable {
              if (i * world.size() % 4 == 0) kept = x.square().mean();  // the first of its stage
              return at::tanh(blocks[i](x));
            },
            mine->out, [blocks](int64_t i) mutable { return wanpar::tensors_of(blocks[i]); });
        auto model = stack | block_pipeline({.stages = world});
        auto y = model(numbers({4, 5}, kDouble));
        auto backward = [&] { (y.square().mean() + kept).backward(); };
        require_error(backward, "otherwise than by the result");
      },
      {2, 4});
}

TEST_CASE("threads that share one module cannot train it") {
  auto shared = net();
  auto x = numbers({4, 5}, kDouble), target = numbers({4, 3}, kDouble, 1);
  at::Tensor expected;
  {
    at::NoGradGuard no_grad;
    expected = shared(x);
  }
  wanpar::local::run(2, [&](Communicator world) {
    auto model = shared | block_pipeline({.stages = world});
    auto y = model(x);
    require_close(y.detach(), expected, 1e-12, "forward");
    require_error([&] { y.sum().backward(); }, "threads that share this module's parameters");
    require_error([&] { model.train_step({x}, target, squares); },
                  "threads that share this module's parameters");
  });
}

TEST_CASE(
    "a mean over a part of the targets is weighed as the user says, and noticed where nothing is said") {
  namespace F = torch::nn::functional;
  on_worlds(
      [](Communicator world) {
        auto labels = at::tensor({0, 1, -100, 2, -100, -100, 1}, at::kLong);
        auto classes = at::tensor({0.2, 1.0, 3.0}, kDouble);
        auto x = numbers({7, 5}, kDouble);
        auto ignoring = [](at::Tensor y, at::Tensor t) {
          return F::cross_entropy(y, t, F::CrossEntropyFuncOptions().ignore_index(-100));
        };
        auto weighted = [=](at::Tensor y, at::Tensor t) {
          return F::cross_entropy(y, t, F::CrossEntropyFuncOptions().weight(classes));
        };
        auto masked = [](at::Tensor y, at::Tensor t) {
          auto mask = t.ne(-100).to(kDouble);
          return (y.square().sum(1) * mask).sum() / mask.sum();
        };
        auto counted = [](const at::Tensor& t) { return t.ne(-100).sum(); };
        struct Case {
          wanpar::BlockPipelineStrategy::Loss loss;
          at::Tensor target;
          std::function<at::Tensor(const at::Tensor&)> weight;
        };
        for (auto& [loss, target, weight] :
             {Case{ignoring, labels, counted}, Case{masked, labels, counted},
              Case{weighted, labels.clamp(0), [=](const at::Tensor& t) { return classes.index({t}).sum(); }}})
          for (int64_t micro_batches : {1, 3, 7}) {
            auto alone = net(), mine = net();
            auto model = mine | block_pipeline({.stages = world, .micro_batches = micro_batches});
            auto expected = loss(alone(x), target);
            expected.backward();
            if (micro_batches > 1)
              require_error([&] { model.train_step({x}, target, loss); }, "say in .weight");
            mine->zero_grad();
            auto found = model.train_step({x}, target, loss, {.weight = weight});
            require_close(found, expected.detach(), 1e-9, "loss");
            require_gradients_of(mine, alone, "gradients");
          }
        auto sum = [](at::Tensor y, at::Tensor t) { return at::mse_loss(y, t, at::Reduction::Sum); };
        auto model = net() | block_pipeline({.stages = world, .micro_batches = 2});
        require_error([&] { model.train_step({x}, numbers({7, 3}, kDouble), sum); }, "LossOf::sum");
      },
      {1, 2, 4});
}

TEST_CASE("replicas whose targets weigh differently have the mean over all that count") {
  namespace F = torch::nn::functional;
  on_worlds(
      [](Communicator world) {
        wanpar::Mesh mesh(world, {{"data", 2}, {"pipe", world.size() / 2}});
        auto labels = at::tensor({0, -100, -100, 2, 1, 0, 2, 1}, at::kLong);
        auto x = numbers({8, 5}, kDouble);
        auto half = [&](const at::Tensor& whole) { return whole.chunk(2)[mesh.index("data")]; };
        auto loss = [](at::Tensor y, at::Tensor t) {
          return F::cross_entropy(y, t, F::CrossEntropyFuncOptions().ignore_index(-100));
        };
        auto alone = net(), mine = net();
        auto model = mine | block_pipeline({.stages = mesh["pipe"], .micro_batches = 2});
        auto expected = loss(alone(x), labels);
        expected.backward();
        auto found = model.train_step(
            {half(x)}, half(labels), loss,
            {.weight = [](const at::Tensor& t) { return t.ne(-100).sum(); }, .replicas = mesh["data"]});
        require_close(found, expected.detach(), 1e-9, "loss");
        require_gradients_of(mine, alone, "gradients");
      },
      {2, 4});
}

TEST_CASE("a step that fails leaves the gradients of earlier ones") {
  on_worlds(
      [](Communicator world) {
        auto mine = net();
        auto model = mine | block_pipeline({.stages = world, .micro_batches = 2});
        auto x = numbers({4, 5}, kDouble), target = numbers({4, 3}, kDouble, 1);
        model.train_step({x}, target, squares);
        std::vector<at::Tensor> before;
        for (auto* one : {&mine->in->weight, &mine->out->bias, &mine->scale})
          before.push_back(one->grad().clone());
        int calls = 0;
        auto failing = [&](at::Tensor y, at::Tensor t) {
          if (++calls > 1) throw std::runtime_error("out of luck");
          return squares(y, t);
        };
        require_error_of_any_kind([&] { model.train_step({x}, target, failing); }, "out of luck");
        size_t i = 0;
        for (auto* one : {&mine->in->weight, &mine->out->bias, &mine->scale}) {
          require(one->grad().defined(), "it is there");
          require_close(one->grad(), before[i++], 0, "as it was");
        }
        world.barrier();
      },
      {2, 4});
}

}  // namespace training_loops_test
