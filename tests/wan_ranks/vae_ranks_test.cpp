// The VAE decodes by bands what one rank decodes, and diffusers; what it sends is what the formula says.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <wanpar/strategy/patch_parallel.hpp>
#include <wanpar/transport/recording.hpp>

#include "../wan/reference.hpp"
#include "wan/generate/decode.hpp"
#include "wan/vae/bands.hpp"
#include "worlds.hpp"

namespace vae_ranks_test {
namespace {

struct Size {
  int64_t frames, height, width;
};

at::Tensor noise(Size size) {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
  return at::randn({1, 16, size.frames, size.height, size.width}, generator);
}

/// What all of n ranks send of the decoder's inside when they cut latents across `across` and keep `along`:
/// of each convolution that looks at neighbours the line on both sides of each cut, of each attention the
/// keys and values, and of the frames themselves every rank's to all others.
int64_t bytes_by_formula(int64_t n, const wan::VaeConfig& config, int64_t frames, int64_t across,
                         int64_t along) {
  constexpr int64_t kFloat = 4, kConvolutions = 2;
  const int64_t attended = across * along;
  int64_t lines = 0, keys_and_values = 0;
  for (int64_t i = 0; i < frames; ++i) {
    int64_t together = 1, width = along, in = config.base_dim * config.multipliers.back();
    const int64_t before = i == 0 ? 0 : 2;  // of the frames that convolutions remember
    const auto line = [&](int64_t channels, int64_t at_once) { lines += channels * at_once * width; };
    line(config.channels, together + before);
    for (int64_t j = 0; j < 2 * kConvolutions; ++j) line(in, together + before);
    keys_and_values += 2 * in * attended;
    for (auto level = static_cast<int64_t>(config.multipliers.size()) - 1; level >= 0; --level) {
      const auto out = config.base_dim * config.multipliers[level];
      for (int64_t j = 0; j <= config.residual_blocks; ++j, in = out) {
        line(in, together + before);
        line(out, together + before);
      }
      if (level == 0) break;
      if (config.temporal_downsample[level - 1] && i > 0) together *= 2;
      width *= 2;
      line(out, together);
      in = out / 2;
    }
    line(in, together + before);
  }
  const auto video = 3 * (4 * (frames - 1) + 1) * 8 * across * 8 * along;
  return (n - 1) * kFloat * (2 * lines + keys_and_values + video);
}

/// The same of the encoder, for bands whose lengths are even wherever they are halved, and what ranks agree
/// by.
int64_t bytes_of_encoding(int64_t n, const wan::VaeConfig& config, Size size) {
  constexpr int64_t kFloat = 4;
  int64_t lines = 0, keys_and_values = 0, parts = 0;
  for (int64_t first = 0; first < size.frames; first += first == 0 ? 1 : 4, ++parts) {
    int64_t together = first == 0 ? 1 : 4, width = size.width, in = config.base_dim;
    const int64_t before = first == 0 ? 0 : 2;  // of the frames that convolutions remember
    const auto line = [&](int64_t channels) { lines += 2 * channels * (together + before) * width; };
    line(3);
    for (size_t level = 0; level < config.multipliers.size(); ++level) {
      const auto out = config.base_dim * config.multipliers[level];
      for (int64_t j = 0; j < config.residual_blocks; ++j, in = out) line(in), line(out);
      if (level + 1 == config.multipliers.size()) break;
      lines += out * together * (width + 1);  // of what is halved, with its padding, from one side
      width /= 2;
      if (config.temporal_downsample[level] && first > 0) together /= 2;
    }
    for (int j = 0; j < 5; ++j) line(in);
    keys_and_values += 2 * in * together * width * size.height / 8;
  }
  const auto latents = config.channels * parts * size.height * size.width / 64;
  return (n - 1) * (kFloat * (lines + keys_and_values + latents) + 24 * n);
}

/// Of all ranks together, which are threads of this process.
int64_t bytes_sent(const wanpar::Communicator& world, wanpar::Recording& recording, const wan::Vae& vae,
                   Size size) {
  world.barrier();
  if (world.rank() == 0) recording.clear();
  world.barrier();
  wan::decode_by_bands(recording(world), vae, noise(size));
  world.barrier();
  return recording.total().bytes;
}

wan::Job job_with(bool vae_parallel, int ranks) {
  wan::Options options;
  options.ckpt_dir = TEST_DATA "/diffusers";
  options.prompt = "a fox";
  options.device = "cpu";
  options.vae_parallel = vae_parallel;
  return wan::plan(options, ranks);
}

}  // namespace

TEST_CASE("the VAE decodes by bands what it decodes on one rank, whatever the ranks do not divide") {
  const c10::InferenceMode inference;
  const auto vae = wan_test::tiny_vae();
  for (const Size size : {Size{3, 7, 4}, {2, 5, 11}, {1, 4, 4}, {2, 8, 2}}) {
    const auto expected = wan::Vae(vae)->decode(noise(size));
    on_worlds(
        [&](wanpar::Communicator world) {
          const c10::InferenceMode inference;
          require_close(wan::decode_by_bands(world, vae, noise(size)), expected, 1e-5,
                        fmt::format("latents {}x{}x{}", size.frames, size.height, size.width));
        },
        {1, 2, 3, 4});
  }
}

TEST_CASE("the VAE decodes by bands what diffusers decodes") {
  const c10::InferenceMode inference;
  const auto vae = wan_test::tiny_vae();
  const auto& config = vae->config();
  const auto per_channel = [](const std::vector<double>& values) {
    return at::tensor(values, at::kFloat).view({1, -1, 1, 1, 1});
  };
  for (const std::string name : {"long", "one", "odd"}) {
    const auto latents = (wan_test::reference("vae.dec_" + name + ".latents") - per_channel(config.mean)) /
                         per_channel(config.std);
    const auto expected = wan_test::reference("vae.dec_" + name + ".frames");
    on_worlds(
        [&](wanpar::Communicator world) {
          const c10::InferenceMode inference;
          if (!wan::has_bands(latents.size(3), latents.size(4), world.size())) return;
          require_close(wan::decode_by_bands(world, vae, latents), expected, 1e-4, name);
        },
        {1, 2, 3, 4});
  }
}

TEST_CASE("bands send their lines at the cuts, keys and values, and the frames once") {
  if (is_one_of_several_processes()) return;  // of which a recording sees one
  const c10::InferenceMode inference;
  const auto vae = wan_test::tiny_vae();
  wanpar::Recording recording;
  on_worlds(
      [&](wanpar::Communicator world) {
        const c10::InferenceMode inference;
        // What ranks compare, so that none decodes something else, does not depend on the size.
        const auto compared = [&](Size size) {
          const auto across = std::max(size.height, size.width), along = std::min(size.height, size.width);
          return bytes_sent(world, recording, vae, size) -
                 bytes_by_formula(world.size(), vae->config(), size.frames, across, along);
        };
        const auto least = compared({3, 4, 4});
        const int64_t pairs = world.size() * (world.size() - 1);
        require(least > 0 && least < 32768 * pairs,
                fmt::format("{} bytes are sent beside those of the formula", least));
        for (const Size size : {Size{3, 7, 4}, {3, 5, 11}})
          require(compared(size) == least,
                  fmt::format("{} bytes are sent beside those of the formula, and {} of another size",
                              compared(size), least));
      },
      {2, 3, 4});
}

TEST_CASE(
    "the VAE encodes over the ranks what it encodes on one, and sends lines and keys and values for it") {
  const c10::InferenceMode inference;
  auto vae = wan_test::tiny_vae_encoder();
  wanpar::Recording recording;
  for (const Size size : {Size{9, 96, 24}, {5, 56, 16}, {1, 40, 88}}) {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
    const auto frames = at::randn({1, 3, size.frames, size.height, size.width}, generator);
    const auto expected = vae->encode(frames);
    on_worlds(
        [&](wanpar::Communicator world) {
          const c10::InferenceMode inference;
          auto by_bands = [&](const at::Tensor& x) { return vae->encode(x); } |
                          wanpar::patch_parallel({.group = recording(world), .split = {{.arg = 0}}});
          by_bands(frames);  // in which ranks compare what is alike
          world.barrier();
          if (world.rank() == 0) recording.clear();
          world.barrier();
          require_close(by_bands(frames), expected, 1e-5, "latents");
          world.barrier();
          const auto sent = recording.total().bytes;
          const auto formula = bytes_of_encoding(world.size(), vae->config(), size);
          // Bands of odd lengths are halved with one line more; a recording sees one process alone.
          require(size.height != 96 || is_one_of_several_processes() || sent == formula,
                  fmt::format("{} bytes are sent, {} by the formula", sent, formula));
        },
        {2, 3, 4});
  }
}

TEST_CASE("every rank has the frames; without --vae_parallel, or without bands, the first alone") {
  const at::NoGradGuard no_grad;
  const auto latents = noise({2, 4, 4}).squeeze(0), small = noise({1, 2, 2}).squeeze(0);
  const auto expected = wan::decode({}, job_with(true, 1), latents, at::kCPU, nullptr);
  on_worlds(
      [&](wanpar::Communicator world) {
        const at::NoGradGuard no_grad;
        const auto frames = [&](bool vae_parallel, const at::Tensor& of) {
          return wan::decode(world, job_with(vae_parallel, world.size()), of, at::kCPU, nullptr);
        };
        require_close(frames(true, latents), expected, 1e-5, "over the ranks");
        require(frames(true, small).defined() == (world.size() <= 2 || world.rank() == 0), "no bands");
        const auto alone = frames(false, latents);
        require(alone.defined() == (world.rank() == 0), "the first rank alone");
        if (world.rank() == 0) require_equal(alone, expected, "alone");
      },
      {2, 3, 4});
}

TEST_CASE("a VAE that makes NaN is told by the same sentence on every rank") {
  const c10::InferenceMode inference;
  auto vae = wan_test::tiny_vae();
  auto latents = noise({1, 6, 4});
  latents[0][0][0][5][0] = std::numeric_limits<float>::quiet_NaN();
  on_worlds(
      [&](wanpar::Communicator world) {
        const c10::InferenceMode inference;
        require_error([&] { wan::decode_by_bands(world, vae, latents); },
                      "makes NaN or infinity of latent frame 1");
      },
      {2, 3});
}

}  // namespace vae_ranks_test
