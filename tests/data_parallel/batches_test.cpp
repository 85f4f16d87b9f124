// Whose batch it is, and where it lies in what a module gives.
#include <doctest/doctest.h>
#include <torch/nn.h>
#include <torch/nn/functional/embedding.h>

#include <limits>

#include "gradients.hpp"

using wanpar::BatchMode;
using wanpar::Communicator;
using wanpar::Model;

namespace batches_test {
namespace {

/// A module whose result is gathered, and the same on one rank.
template <class Module, class... Args>
void check_whole(const Communicator& world, Module module, const std::string& claim, const Args&... args) {
  auto parallel = module | wanpar::data_parallel({.group = world});
  require_close(parallel(args...), module(args...), 1e-12, claim);
}

}  // namespace

TEST_CASE("a result is gathered along the dimension in which the batch is, wherever that has gone") {
  on_worlds(
      [](Communicator world) {
        for (int64_t batch : std::vector<int64_t>{2 * world.size(), 2 * world.size() + 1, 1}) {
          auto x = samples({batch, 2, 8});
          auto claim = [&](const char* what) { return fmt::format("{}, batch {}", what, batch); };
          check_whole(
              world, [](at::Tensor x) { return x.transpose(0, 1).contiguous(); }, claim("moved"), x);
          check_whole(
              world, [](at::Tensor x) { return x.flatten(0, 1); }, claim("merged"), x);
          check_whole(
              world, [](at::Tensor x) { return at::bmm(x, x.transpose(1, 2)).softmax(-1); },
              claim("a product of samples with themselves"), x);
          check_whole(
              world,
              [](at::Tensor x) {
                auto cls = at::ones({1, 1, 8}, x.options()).expand({x.size(0), 1, 8});
                return at::cat({cls, x, at::zeros({x.size(0), 1, 8}, x.options())}, 1);
              },
              claim("with what is the same for every sample"), x);
          check_whole(
              world,
              [](at::Tensor x) {
                return at::max_pool2d(x.unsqueeze(1), {2, 2}).index({at::indexing::Slice(), 0});
              },
              claim("pooled"), x);
          if (batch == 1) continue;  // LibTorch drops dimensions of one element on einsum's way
          check_whole(
              world,
              [](at::Tensor x) {
                return at::einsum("bij,bkj->ikb", {x, x});
              },
              claim("einsum"), x);
        }
      },
      {2, 3, 4});
}

TEST_CASE("states of a recurrent network, whose dimension 0 is the layers, are gathered along their own") {
  on_worlds(
      [](Communicator world) {
        for (auto dtype : {at::kDouble, at::kFloat}) {
          auto expected = with_weights(
              torch::nn::LSTM(torch::nn::LSTMOptions(8, 5).num_layers(2).batch_first(true)), dtype);
          auto mine = with_weights(
              torch::nn::LSTM(torch::nn::LSTMOptions(8, 5).num_layers(2).batch_first(true)), dtype);
          auto parallel = mine | wanpar::data_parallel({.group = world});
          auto tolerance = dtype == at::kDouble ? 1e-12 : 1e-5;
          for (int64_t batch : std::vector<int64_t>{2 * world.size(), 2 * world.size() + 1}) {
            auto x = samples({batch, 3, 8}, 1, dtype);
            auto [y, state] = expected(x);
            auto [z, others] = parallel(x);
            require_close(z, y, tolerance, "y");
            require_close(std::get<0>(others), std::get<0>(state), tolerance, "h");
            require_close(std::get<1>(others), std::get<1>(state), tolerance, "c");
            (y.square().sum() + std::get<0>(state).sin().sum()).backward();
            (z.square().sum() + std::get<0>(others).sin().sum()).backward();
            for (size_t i = 0; i < mine->parameters().size(); ++i)
              require_close(mine->parameters()[i].grad(), expected->parameters()[i].grad(), 10 * tolerance,
                            fmt::format("gradient {}", i));
          }
        }
      },
      {1, 2, 4});
}

TEST_CASE(
    "what does not stem from the batch is given as it is; what mixes samples is refused, whatever its "
    "shape") {
  on_worlds(
      [](Communicator world) {
        const int64_t each = 2, batch = each * world.size();
        auto x = samples({batch, each});
        auto codes = samples({each, 5}, 3);
        auto both = [&](at::Tensor x) { return std::tuple(x * 2, codes * 1); };
        auto [y, z] = (both | wanpar::data_parallel({.group = world}))(x);
        require_equal(y, x * 2, "the batch");
        require_equal(z, codes, "a codebook as long as a rank's share");

        auto refuses = [&](auto module, const std::string& why) {
          auto parallel = module | wanpar::data_parallel({.group = world});
          require_error([&] { parallel(x); }, why);
        };
        refuses([](at::Tensor x) { return x.mean({0}); }, "it went through aten::mean");
        refuses([](at::Tensor x) { return x - x.mean({0}); }, "it went through aten::mean");
        refuses([](at::Tensor x) { return at::mm(x, x.t()); }, "samples");
        refuses([](at::Tensor x) { return x.flip(0); }, "it went through aten::flip");
        refuses([](at::Tensor x) { return x + at::arange(x.size(0)).unsqueeze(1); }, "a row for each sample");
        refuses([](at::Tensor x) { return std::get<0>(at::linalg_qr(x)) * 0 + x; }, "not known");
        refuses([](at::Tensor x) { return std::get<0>(x.unbind(0)[0].sort()); },
                "it went through aten::unbind");

        auto unknown = [](at::Tensor x) { return at::cumsum(x, 1).cummax(1); };
        refuses([=](at::Tensor x) { return std::get<0>(unknown(x)); }, "not known to keep samples apart");
        auto stated = [=](at::Tensor x) { return std::get<0>(unknown(x)); } |
                      wanpar::data_parallel({.group = world, .gather = {{.dim = -2}}});
        require_equal(stated(x), std::get<0>(unknown(x)), "as the user says");
      },
      {2, 3, 4});
}

TEST_CASE("ranks that give batches of their own to one that is to be whole are told how DDP is had") {
  on_worlds(
      [](Communicator world) {
        auto mine = with_weights(Classifier());
        auto whole = mine | wanpar::data_parallel({.group = world});
        auto same = samples({4, 12}), own = samples({4, 12}, world.rank());
        require_close(whole(same), mine(same), 1e-12, "the same batch");
        const std::string advice = "set .mode = BatchMode::local";
        require_error([&] { whole(own); }, advice);
        require_error([&] { whole(at::cat({same.narrow(0, world.rank() % 4, 1), same})); }, advice);
        require_error([&] { whole(same.roll(world.rank(), 0)); },
                      advice);  // the same samples in another order
        require_error([&] { whole(samples({4 + world.rank(), 12})); }, advice);
        auto scaled = [](at::Tensor x, double by) { return x * by; } |
                      wanpar::data_parallel({.group = world});
        require_error([&] { scaled(same, 1.5 + world.rank()); }, advice);
        auto masked = [](at::Tensor x, at::Tensor mask) { return (x + mask).softmax(1); } |
                      wanpar::data_parallel({.group = world, .batch = {0, 1}});
        auto mask =
            at::full({4, 12}, std::numeric_limits<double>::lowest(), at::kDouble) * samples({4, 12}).gt(0);
        require_close(masked(same, mask), (same + mask).softmax(1), 1e-12, "the lowest numbers");
        require_error([&] { masked(same, mask.roll(world.rank(), 1)); }, advice);
        require_error([&] { masked(same, mask + own.clamp(0)); }, advice);
        require_close(whole(same), mine(same), 1e-12, "and goes on");
        require_close(whole(same * (1 + 1e-13 * world.rank())), mine(same), 1e-9, "rounded differently");
      },
      {2, 3, 4});
}

TEST_CASE(
    "a module that writes to a parameter by its own samples is refused, one that writes a buffer alike is "
    "not") {
  on_worlds(
      [](Communicator world) {
        for (auto mode : {BatchMode::global, BatchMode::local}) {
          auto words = torch::nn::Embedding(torch::nn::EmbeddingOptions(10, 4).max_norm(0.5));
          auto parallel = words | wanpar::data_parallel({.group = world, .mode = mode});
          require_error([&] { parallel(at::arange(2 * world.size())); },
                        "writes to its parameter weight in forward");
        }
        struct SpectralImpl : torch::nn::Module {
          SpectralImpl() {
            weight = register_parameter("weight", samples({6, 12}, 1));
            u = register_buffer("u", samples({6}, 2));
          }
          at::Tensor forward(at::Tensor x) {
            at::Tensor v;
            {
              at::NoGradGuard no_grad;
              v = at::mv(weight.t(), u);
              v = v / v.norm();
              u.copy_(at::mv(weight, v) / at::mv(weight, v).norm());
            }
            return at::linear(x, weight / at::dot(u.clone(), at::mv(weight, v)));
          }
          at::Tensor weight, u;
        };
        auto expected = std::make_shared<SpectralImpl>(), mine = std::make_shared<SpectralImpl>();
        auto parallel = mine | wanpar::data_parallel({.group = world});
        for (int step = 0; step < 3; ++step) {
          auto x = samples({5, 12}, step);
          expected->forward(x).square().sum().backward();
          parallel(x).square().sum().backward();
          require_close(mine->weight.grad(), expected->weight.grad(), 1e-9, "spectral norm");
        }
        struct CountingImpl : torch::nn::Module {
          CountingImpl() { mean = register_buffer("mean", at::zeros({12}, at::kDouble)); }
          at::Tensor forward(at::Tensor x) {
            mean.add_(x.detach().mean({0}));
            return x * 2;
          }
          at::Tensor mean;
        };
        auto counting = std::make_shared<CountingImpl>() | wanpar::data_parallel({.group = world});
        require_error([&] { counting(samples({4, 12})); }, "the module wrote its buffers");
      },
      {2, 3});
}

}  // namespace batches_test
