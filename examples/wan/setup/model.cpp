#include "wan/setup/model.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <chrono>
#include <wanpar/strategy/sequence_parallel.hpp>

#include "wan/generate/room.hpp"
#include "wan/io/checkpoint.hpp"
#include "wan/model/transformer.hpp"

namespace wan::setup {
namespace {

std::string size_of(const Weights& weights) {
  int64_t parameters = 0;
  uint64_t bytes = 0;
  for (auto& [name, entry] : weights) parameters += entry.tensor.numel(), bytes += entry.tensor.nbytes();
  return fmt::format("{:.4g} million parameters, {}", static_cast<double>(parameters) / 1e6,
                     gibibytes(bytes));
}

}  // namespace

Findings checkpoint(const std::filesystem::path& folder) try {
  const Checkpoint found(folder);
  const auto& config = found.transformer_config();
  return {ok("checkpoint", fmt::format("{} layout", found.layout().name)),
          ok("transformer", fmt::format("{} layers, width {}, {} heads, {}", config.layers, config.dim,
                                        config.heads, size_of(found.transformer()))),
          ok("text encoder", fmt::format("{} layers, width {}, {}", found.text_encoder_config().layers,
                                         found.text_encoder_config().dim, size_of(found.text_encoder()))),
          ok("VAE", size_of(found.vae()))};
} catch (const std::exception& error) {
  return {fail("checkpoint", error.what(),
               "give --ckpt_dir a Wan2.1 text-to-video folder, downloaded to its end")};
}

Finding transformer(const wanpar::Communicator& world, at::Device device) {
  at::NoGradGuard no_grad;
  const TransformerConfig config{
      .dim = 96, .heads = 8, .layers = 2, .ffn_dim = 128, .text_dim = 32, .freq_dim = 32, .text_len = 8};
  Transformer plain(config);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes, generator); };
  for (auto& parameter : plain->parameters())
    parameter.copy_(random(parameter.sizes()) / std::sqrt(static_cast<double>(parameter.size(-1))));
  const std::vector<at::Tensor> inputs{random({1, 16, 3, 16, 16}).to(device), at::full({1}, 500.0).to(device),
                                       random({1, 8, 32}).to(device)};
  plain->to(device);
  const auto expected = plain(inputs[0], inputs[1], inputs[2]);
  auto split = plain | wanpar::sequence_parallel({.ring = world});
  const auto begin = std::chrono::steady_clock::now();
  const auto actual = split(inputs[0], inputs[1], inputs[2]);
  const auto apart = (actual - expected).abs().max().item<double>();
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
  const auto found = fmt::format("split over {} {}: apart from one rank by {:.1e}, {:.0f} ms", world.size(),
                                 world.size() == 1 ? "rank" : "ranks", apart, time.count());
  if (apart < 1e-3) return ok("model", found);
  return fail(
      "model", found,
      "ranks compute or exchange wrongly: check that all run the same build on the same kind of device");
}

}  // namespace wan::setup
