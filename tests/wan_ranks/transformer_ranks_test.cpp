#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "wan/model/transformer.hpp"
#include "worlds.hpp"

namespace transformer_ranks_test {

TEST_CASE(
    "Wan's transformer gives on every ulysses x ring mesh what it gives on one rank, odd grids included") {
  wan::TransformerConfig config{
      .dim = 48, .heads = 6, .layers = 2, .ffn_dim = 64, .text_dim = 24, .text_len = 16};
  wan::Transformer plain(config);
  at::NoGradGuard no_grad;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
  for (auto& parameter : plain->parameters())
    parameter.copy_(at::randn(parameter.sizes(), generator) / std::sqrt(double(parameter.size(-1))));

  for (auto [frames, height, width] : {std::array<int64_t, 3>{3, 6, 10}, {1, 2, 2}, {2, 4, 6}}) {
    auto latents = at::randn({2, 16, frames, height, width}, generator);
    auto text = at::randn({2, config.text_len, config.text_dim}, generator);
    auto time = at::tensor({981.0f, 12.5f});
    auto expected = plain(latents, time, text);
    on_worlds([&](wanpar::Communicator world) {
      at::NoGradGuard no_grad;
      for (int64_t ulysses = 1; ulysses <= world.size(); ++ulysses) {
        if (world.size() % ulysses) continue;
        wanpar::Mesh mesh(world, {{"ring", world.size() / ulysses}, {"ulysses", ulysses}});
        auto split = plain | wanpar::sequence_parallel(
                                 {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .min_share = 1});
        require_close(split(latents, time, text), expected, 1e-5,
                      fmt::format("ulysses {} x ring {}, {} tokens", ulysses, mesh.size("ring"),
                                  frames * height * width / 4));
      }
    });
  }
}

}  // namespace transformer_ranks_test
