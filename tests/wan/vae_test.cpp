#include <ATen/ops/tensor.h>

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>

#include "fixture.hpp"
#include "reference.hpp"

using namespace wan_test;

namespace vae_test {
namespace {

/// Latents as the transformer sees them, from what the reference fed to the decoder.
at::Tensor normalised(const at::Tensor& latents) {
  const auto& config = checkpoint().vae_config();
  const auto statistics = [](const std::vector<double>& values) {
    return at::tensor(values, at::kFloat).view({1, -1, 1, 1, 1});
  };
  return (latents - statistics(config.mean)) / statistics(config.std);
}

at::Tensor latents_of(const std::string& name) {
  return normalised(reference("vae.dec_" + name + ".latents"));
}

}  // namespace

TEST_CASE("the VAE decodes what diffusers decodes") {
  c10::InferenceMode inference;
  auto vae = tiny_vae();
  for (const std::string name : {"long", "one", "odd"}) {
    CAPTURE(name);
    CHECK(difference(vae->decode(latents_of(name)), reference("vae.dec_" + name + ".frames")) < 1e-4);
  }
}

TEST_CASE("decoding remembers nothing of the video before") {
  c10::InferenceMode inference;
  auto vae = tiny_vae();
  const auto first = vae->decode(latents_of("odd"));
  vae->decode(latents_of("long"));
  CHECK(vae->decode(latents_of("odd")).equal(first));
}

TEST_CASE("later latent frames do not change earlier pixels") {
  c10::InferenceMode inference;
  auto vae = tiny_vae();
  const auto latents = latents_of("long");
  const auto beginning = vae->decode(latents.narrow(2, 0, 2));
  CHECK(beginning.equal(vae->decode(latents).narrow(2, 0, 5)));
}

TEST_CASE("decoding tells of every latent frame") {
  c10::InferenceMode inference;
  std::vector<int64_t> heard;
  tiny_vae()->decode(latents_of("odd"), [&](int64_t done, int64_t all) {
    CHECK(all == 3);
    heard.push_back(done);
  });
  CHECK(heard == std::vector<int64_t>{1, 2, 3});
}

TEST_CASE("the VAE refuses latents of another shape, and says which") {
  auto vae = tiny_vae();
  CHECK(says(message_of([&] { vae->decode(at::zeros({1, 15, 1, 4, 4})); }), "1, 15, 1, 4, 4", "16"));
  CHECK(says(message_of([&] { vae->decode(at::zeros({16, 1, 4, 4})); }), "16, 1, 4, 4"));
}

}  // namespace vae_test
