#include <ATen/ops/full.h>

#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "fixture.hpp"
#include "reference.hpp"
#include "wan/pipeline/guidance.hpp"
#include "wan/pipeline/noise.hpp"
#include "wan/pipeline/sampling.hpp"

using namespace wan_test;

namespace pipeline_test {
namespace {

/// The settings of the reference's pipeline run.
const nlohmann::json& settings() {
  static const auto manifest = nlohmann::json::parse(std::ifstream(kData / "manifest.json"));
  return manifest.at("pipeline");
}

at::Tensor reference_noise() {
  const auto& s = settings();
  return wan::initial_noise(checkpoint().vae_config(),
                            {.width = s.at("width"), .height = s.at("height"), .frames = s.at("frames")},
                            s.at("seed"));
}

wan::Velocity constant(double value) {
  return [value](const at::Tensor& latents, double) { return at::full_like(latents, value); };
}

}  // namespace

TEST_CASE("a seed draws the noise that torch draws") {
  CHECK(reference_noise().equal(reference("pipe.noise")));
}

TEST_CASE("noise, guided sampling and decoding make the video of the reference with every solver") {
  c10::InferenceMode inference;
  const auto& s = settings();
  auto transformer = tiny_transformer();
  auto vae = tiny_vae();
  const auto velocity =
      wan::guided(wan::conditioned(transformer, padded_text(s.at("prompt"))),
                  wan::conditioned(transformer, padded_text(s.at("negative_prompt"))), s.at("guidance"));
  for (const std::string solver : {"unipc", "dpm++", "euler", "diffusers_unipc"}) {
    CAPTURE(solver);
    const auto scheduler = wan::make_scheduler(solver, s.at("steps"), s.at("shift"));
    const auto latents = wan::sample(reference_noise().unsqueeze(0), *scheduler, velocity);
    CHECK(difference(latents, reference("pipe." + solver + ".latents")) < 1e-4);
    CHECK(difference(vae->decode(latents), reference("pipe." + solver + ".frames")) < 1e-4);
  }
}

TEST_CASE("guidance goes from the negative through the positive velocity") {
  const auto at_one = [](const wan::Velocity& velocity) {
    return velocity(at::zeros({1}), 500).item<double>();
  };
  CHECK(at_one(wan::guided(constant(3), constant(1), 5)) == doctest::Approx(11));
  CHECK(at_one(wan::guided(constant(3), constant(1), 0)) == doctest::Approx(1));
}

TEST_CASE("guidance in one call has the positive sample first") {
  const wan::Velocity both = [](const at::Tensor& latents, double) {
    return latents + at::tensor({3.0, 1.0});
  };
  const auto velocity = wan::guided_at_once(both, 5)(at::full({1}, 10.0), 500);
  CHECK(velocity.sizes() == at::IntArrayRef{1});
  CHECK(velocity.item<double>() == doctest::Approx(21));
}

TEST_CASE("guidance of scale 1 asks the model once") {
  int asked = 0;
  const wan::Velocity counting = [&](const at::Tensor& latents, double) { return ++asked, latents; };
  wan::guided(counting, counting, 1)(at::zeros({1}), 500);
  CHECK(asked == 1);
}

TEST_CASE("sampling tells of every step, and gives the model every timestep") {
  std::vector<int64_t> heard;
  std::vector<double> asked;
  const auto scheduler = wan::make_scheduler("unipc", 3, 5.0);
  const auto velocity = [&](const at::Tensor& latents, double timestep) {
    asked.push_back(timestep);
    return latents;
  };
  wan::sample(at::zeros({2}), *scheduler, velocity, [&](const wan::Step& step) {
    CHECK(step.steps == 3);
    heard.push_back(step.number);
  });
  CHECK(heard == std::vector<int64_t>{1, 2, 3});
  CHECK(asked == scheduler->timesteps());
}

TEST_CASE("a step foresees where its velocity leads") {
  const auto video = at::full({2}, 3.0), noise = at::full({2}, -1.0);
  const auto scheduler = wan::make_scheduler("euler", 4, 5.0);
  const auto straight = [&](const at::Tensor&, double) { return noise - video; };
  wan::sample(noise, *scheduler, straight, [&](const wan::Step& step) {
    const bool is_video = at::allclose(step.foreseen(), video);
    CHECK(is_video);
  });
}

TEST_CASE("sampling keeps latents in float32, whatever the model returns") {
  const auto scheduler = wan::make_scheduler("euler", 2, 3.0);
  const auto half = [](const at::Tensor& latents, double) { return latents.to(at::kBFloat16); };
  const bool is_float32 = wan::sample(at::zeros({2}), *scheduler, half).scalar_type() == at::kFloat;
  CHECK(is_float32);
}

TEST_CASE("a video size that the model cannot make is refused with one that it can") {
  const wan::VaeConfig config;
  const auto refusal = [&](wan::VideoSize size) {
    return message_of([&] { wan::latent_shape(config, size); });
  };
  CHECK(wan::latent_shape(config, {}) == std::array<int64_t, 4>{16, 21, 60, 104});
  CHECK(says(refusal({.width = 840}), "840x480", "832x480"));
  CHECK(says(refusal({.height = 7}), "832x7", "832x16"));
  CHECK(says(refusal({.frames = 80}), "80 frames", "77"));
  CHECK(says(refusal({.frames = 0}), "0 frames", "1 would be"));
}

}  // namespace pipeline_test
