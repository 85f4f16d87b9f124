#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>

#include <cmath>

#include "fixture.hpp"
#include "reference.hpp"

using namespace wan_test;

namespace vae_test {
namespace {

/// Latents as the transformer sees them, from what the reference fed to the decoder.
at::Tensor normalised(const at::Tensor& latents) {
  const auto& config = checkpoint().vae_config();
  const auto statistics = [&](const std::vector<double>& values) {
    return at::tensor(values, latents.options()).view({1, -1, 1, 1, 1});
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

TEST_CASE("the VAE encodes what diffusers encodes") {
  c10::InferenceMode inference;
  auto vae = tiny_vae_encoder();
  for (const std::string name : {"long", "one", "odd"}) {
    CAPTURE(name);
    const auto expected = normalised(reference("vae.enc_" + name + ".latents"));
    CHECK(difference(vae->encode(reference("vae.enc_" + name + ".frames")), expected) < 1e-4);
  }
}

TEST_CASE("later frames do not change earlier latents, and frames beyond the last four are left out") {
  c10::InferenceMode inference;
  auto vae = tiny_vae_encoder();
  const auto frames = reference("vae.enc_long.frames");
  const auto latents = vae->encode(frames);
  CHECK(vae->encode(frames.narrow(2, 0, 5)).equal(latents.narrow(2, 0, 2)));
  CHECK(vae->encode(frames.narrow(2, 0, 12)).equal(latents.narrow(2, 0, 3)));
}

TEST_CASE("frames may come to the encoder, and latents to the decoder, all at once behind the first") {
  c10::InferenceMode inference;
  const auto frames = reference("vae.enc_long.frames").to(at::kDouble);
  auto encoder = tiny_vae_encoder(at::kDouble);
  wan::FeatureCache encoded;
  const auto moments = at::cat(
      {encoder->encoder(frames.narrow(2, 0, 1), encoded), encoder->encoder(frames.narrow(2, 1, 12), encoded)},
      2);
  const auto mean = encoder->conv1(moments).narrow(1, 0, 16);
  CHECK(difference(normalised(mean.to(at::kDouble)), encoder->encode(frames)) < 1e-12);

  auto decoder = tiny_vae(at::kDouble);
  wan::FeatureCache decoded;
  const auto ready = decoder->conv2(mean);
  const auto video = at::cat(
      {decoder->decoder(ready.narrow(2, 0, 1), decoded), decoder->decoder(ready.narrow(2, 1, 3), decoded)},
      2);
  CHECK(difference(video.clamp(-1, 1), decoder->decode(normalised(mean))) < 1e-12);
}

TEST_CASE("gradients flow through the VAE") {
  const auto frames = reference("vae.enc_long.frames").narrow(2, 0, 5).to(at::kDouble).requires_grad_();
  auto encoder = tiny_vae_encoder(at::kDouble);
  auto decoder = tiny_vae(at::kDouble);
  for (auto& parameter : encoder->parameters()) parameter.requires_grad_();
  for (auto& parameter : decoder->parameters()) parameter.requires_grad_();
  const auto loss = [&](const at::Tensor& x) {
    const auto latents = encoder->encode(x);
    wan::FeatureCache cache;
    return decoder->decoder(decoder->conv2(latents.narrow(2, 0, 1)), cache).square().mean() +
           decoder->decoder(decoder->conv2(latents.narrow(2, 1, 1)), cache).square().mean();
  };
  loss(frames).backward();
  for (const auto& parameter : encoder->named_parameters()) {
    CAPTURE(parameter.key());
    CHECK(parameter.value().grad().defined());
  }
  for (const auto& parameter : decoder->named_parameters()) {
    CAPTURE(parameter.key());
    CHECK(parameter.value().grad().defined());
  }
  // Along a direction, the gradient is what a small step finds.
  at::NoGradGuard no_grad;
  const auto direction = at::sin(at::arange(frames.numel(), frames.options())).view(frames.sizes());
  constexpr double kStep = 1e-5;
  const auto found = (loss(frames + kStep * direction) - loss(frames - kStep * direction)) / (2 * kStep);
  const auto expected = (frames.grad() * direction).sum();
  CHECK(std::abs((found / expected).item<double>() - 1) < 1e-5);
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

TEST_CASE("the VAE refuses frames of another shape, and says which") {
  auto vae = tiny_vae_encoder();
  CHECK(says(message_of([&] { vae->encode(at::zeros({1, 4, 1, 16, 16})); }), "1, 4, 1, 16, 16", "3"));
  CHECK(says(message_of([&] { vae->encode(at::zeros({1, 3, 1, 20, 16})); }), "20", "multiples of 8"));
  CHECK(says(message_of([&] { vae->encode(at::zeros({3, 1, 16, 16})); }), "3, 1, 16, 16"));
}

TEST_CASE("the VAE refuses latents of another shape, and says which") {
  auto vae = tiny_vae();
  CHECK(says(message_of([&] { vae->decode(at::zeros({1, 15, 1, 4, 4})); }), "1, 15, 1, 4, 4", "16"));
  CHECK(says(message_of([&] { vae->decode(at::zeros({16, 1, 4, 4})); }), "16, 1, 4, 4"));
}

}  // namespace vae_test
