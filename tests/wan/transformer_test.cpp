#include <ATen/ops/cat.h>

#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>

#include "fixture.hpp"
#include "reference.hpp"
#include "wan/model/rope.hpp"

using namespace wan_test;

namespace transformer_test {
namespace {

struct Case {
  explicit Case(const std::string& name)
      : latents(reference("dit." + name + ".latents")),
        timestep(reference("dit." + name + ".timestep")),
        velocity(reference("dit." + name + ".velocity")) {
    const auto prompts = reference("dit." + name + ".prompts");
    std::vector<at::Tensor> texts;
    for (int64_t i = 0; i < prompts.size(0); ++i) texts.push_back(padded_text(prompts[i].item<int64_t>()));
    text = at::cat(texts);
  }

  at::Tensor latents, timestep, text, velocity;
};

}  // namespace

TEST_CASE("the transformer predicts what diffusers predicts") {
  c10::InferenceMode inference;
  auto transformer = tiny_transformer();
  for (const std::string name : {"a", "one_frame", "odd_grid", "batch2"}) {
    CAPTURE(name);
    const Case given(name);
    CHECK(difference(transformer(given.latents, given.timestep, given.text), given.velocity) < 1e-4);
  }
}

TEST_CASE("half-precision weights change the prediction by less than one percent and leave it in float32") {
  c10::InferenceMode inference;
  auto transformer = tiny_transformer(at::kBFloat16);
  const Case given("a");
  const auto velocity = transformer(given.latents, given.timestep, given.text);
  const bool is_float32 = velocity.scalar_type() == at::kFloat;
  CHECK(is_float32);
  const auto error = (velocity - given.velocity).norm() / given.velocity.norm();
  CHECK(error.item<double>() < 1e-2);
  CHECK(error.item<double>() > 1e-5);  // the weights really were rounded
}

TEST_CASE("the samples of a batch do not see each other") {
  c10::InferenceMode inference;
  auto transformer = tiny_transformer();
  const Case both("batch2");
  for (int64_t i = 0; i < 2; ++i) {
    const auto alone =
        transformer(both.latents.narrow(0, i, 1), both.timestep.narrow(0, i, 1), both.text.narrow(0, i, 1));
    CHECK(difference(alone, both.velocity.narrow(0, i, 1)) < 1e-4);
  }
}

TEST_CASE("a forward leaves its arguments as they were") {
  c10::InferenceMode inference;
  auto transformer = tiny_transformer();
  const Case given("a");
  const auto latents = given.latents.clone(), text = given.text.clone();
  transformer(latents, given.timestep, text);
  CHECK(latents.equal(given.latents));
  CHECK(text.equal(given.text));
}

TEST_CASE("the rotary tables are those of diffusers") {
  const auto tables = wan::rope_tables({.frames = 3, .height = 3, .width = 4}, 32, at::kCPU);
  CHECK(difference(tables.cos, reference("dit.a.rope_cos")) < 1e-6);
  CHECK(difference(tables.sin, reference("dit.a.rope_sin")) < 1e-6);
}

TEST_CASE("rotation keeps the length of every pair of channels") {
  const auto tables = wan::rope_tables({.frames = 2, .height = 3, .width = 5}, 128, at::kCPU);
  const auto x = at::randn({1, 30, 2, 128});
  const auto length = [](const at::Tensor& t) { return t.unflatten(-1, {-1, 2}).norm(2, {-1}); };
  const auto rotated = wan::rotate(x, wan::rotation(tables));
  CHECK(difference(length(rotated), length(x)) < 1e-6);
  CHECK(rotated.narrow(1, 0, 1).equal(x.narrow(1, 0, 1)));  // the first token stands at the origin
}

TEST_CASE("the transformer refuses shapes that do not fit, and says which") {
  auto transformer = tiny_transformer();
  const auto latents = at::zeros({1, 16, 1, 4, 4}), timestep = at::zeros({1}), text = at::zeros({1, 512, 64});
  CHECK(says(message_of([&] {
               transformer(at::zeros({1, 16, 1, 5, 4}), timestep, text);
             }),
             "1, 16, 1, 5, 4", "16"));
  CHECK(says(message_of([&] { transformer(latents, at::zeros({2}), text); }), "timestep", "[2]", "[1]"));
  CHECK(says(message_of([&] {
               transformer(latents, timestep, at::zeros({1, 7, 64}));
             }),
             "text", "1, 7, 64", "512"));
}

}  // namespace transformer_test
