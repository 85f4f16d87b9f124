#include <doctest/doctest.h>
#include <wanpar/core/error.hpp>
#include <wanpar/strategy/block_distribution.hpp>

#include "models.hpp"

using wanpar::block_distribution;

namespace block_distribution_test {

TEST_CASE("blocks over the devices of a process give what they give on one, gradients too") {
  auto plain = stacked_model(), same = stacked_model();
  auto spread = same | block_distribution({.devices = {at::kCPU, at::kCPU, at::kCPU}});
  auto x = numbers({4, 5}), time = numbers({4, 1});
  for (int call = 0; call < 2; ++call) {
    auto y = plain(x, time), z = spread(x, time);
    CHECK(torch::equal(y, z));
    y.sum().backward(), z.sum().backward();
  }
  auto expected = gradients(plain), actual = gradients(same);
  for (size_t i = 0; i < expected.size(); ++i) CHECK(torch::equal(actual[i], expected[i]));
  CHECK(spread.named_parameters().size() == expected.size());

  at::NoGradGuard no_grad;
  auto chain = sequential();
  CHECK(torch::equal((chain | block_distribution({.devices = {at::kCPU, at::kCPU}}))(x), chain->forward(x)));
}

TEST_CASE("activations and side tensors go to the device of their block") {
  // A device that any build has and that is not the CPU: meta, which knows shapes only.
  std::vector<at::Tensor> weights{torch::ones({3}), torch::ones({3}, at::kMeta), torch::ones({3}, at::kMeta)};
  std::vector<at::Device> seen;
  auto model =
      wanpar::stack_of(
          [](at::Tensor x) {
            return wanpar::Staged{x, {x + 1, at::Tensor()}};
          },
          3,
          [&](int64_t i, at::Tensor x, const std::vector<at::Tensor>& side) {
            CHECK(side[0].device() == x.device());
            CHECK(weights[i].device() == x.device());
            seen.push_back(x.device());
            return i < 2 ? x * weights[i] + side[0] : at::zeros({3});  // meta has nothing to move back
          },
          [](at::Tensor x) { return x; },
          [&](int64_t i) {
            return wanpar::NamedTensors{{"weight", weights[i]}};
          }) |
      block_distribution({.devices = {at::kCPU, at::kMeta}, .ranges = wanpar::BlockRanges{{0, 1}, {1, 3}}});
  for (int call = 0; call < 2; ++call) CHECK(model(torch::ones({3})).device() == at::kCPU);
  CHECK(seen == std::vector<at::Device>{at::kCPU, at::kMeta, at::kMeta, at::kCPU, at::kMeta, at::kMeta});
}

TEST_CASE("a module without blocks, and more devices than blocks, are refused") {
  auto x = numbers({4, 5});
  auto blockless = [](at::Tensor x) { return x; };
  CHECK_THROWS_WITH_AS((blockless | block_distribution({.devices = {at::kCPU, at::kCPU}}))(x),
                       doctest::Contains("has no block stack"), wanpar::Error);
  CHECK_THROWS_WITH_AS(
      (torch::nn::Sequential(torch::nn::ReLU()) | block_distribution({.devices = {at::kCPU, at::kCPU}}))(x),
      doctest::Contains("1 blocks cannot be spread over 2"), wanpar::Error);
  CHECK_THROWS_AS(blockless | block_distribution({}), wanpar::Error);
}

}  // namespace block_distribution_test
