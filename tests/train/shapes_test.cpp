#include "train/shapes.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <set>

#include "../wan/fixture.hpp"

using namespace wan::train;

namespace shapes_test {
namespace {

constexpr uint64_t kSeed = 3;

at::Tensor colour_of(const Colour& colour) {
  return at::tensor({colour[0], colour[1], colour[2]}, at::kFloat).view({3, 1, 1, 1});
}

at::Tensor whole(const Scene& scene) { return draw({scene}, {whole_view(128, 17)}, at::kCPU)[0]; }

/// The share of each pixel that is not background, [frames, height, width], of a scene with one object.
at::Tensor cover_of(const Scene& scene) {
  const auto ground = colour_of(scene.painted), paint = colour_of(scene.objects.front().painted);
  const auto way = paint - ground;
  return (((whole(scene) + 1) / 2 - ground) * way).sum(0) / way.square().sum();
}

/// The first scenes that have one object.
std::vector<Scene> single_scenes(size_t count) {
  std::vector<Scene> scenes;
  for (uint64_t i = 0; scenes.size() < count; ++i)
    if (auto scene = scene_of(kSeed, i); scene.objects.size() == 1) scenes.push_back(std::move(scene));
  return scenes;
}

double mean_of(const at::Tensor& cover, int64_t dimension) {
  const auto places = at::arange(cover.size(0), at::kFloat) + 0.5;
  return ((cover.sum(1 - dimension) * places).sum() / cover.sum()).item<double>();
}

}  // namespace

TEST_CASE("a scene is known by seed and number, and others are others") {
  std::set<std::string> captions;
  for (uint64_t i = 0; i < 300; ++i) {
    const auto scene = scene_of(kSeed, i);
    CHECK(scene.caption == scene_of(kSeed, i).caption);
    CHECK(whole(scene).equal(whole(scene_of(kSeed, i))));
    captions.insert(scene.caption);
    if (i > 20) i += 30;
  }
  CHECK(captions.size() > 25);
  CHECK(scene_of(kSeed, 0).caption != scene_of(kSeed + 1, 0).caption);
}

TEST_CASE("a caption says what is drawn: the colour, the direction, the background") {
  for (const auto& scene : single_scenes(40)) {
    CAPTURE(scene.caption);
    const auto& object = scene.objects.front();
    const auto cover = cover_of(scene);
    const double right = mean_of(cover[16], 1) - mean_of(cover[0], 1);
    const double down = mean_of(cover[16], 0) - mean_of(cover[0], 0);
    const auto moved = [&](Direction direction) {
      switch (direction) {
        case Direction::left:
          return -right;
        case Direction::right:
          return right;
        case Direction::up:
          return -down;
        case Direction::down:
          break;
      }
      return down;
    };
    CHECK(scene.caption.find(name_of(object.direction)) != std::string::npos);
    CHECK(moved(object.direction) == doctest::Approx(object.travel * 128).epsilon(0.01));
    CHECK(std::abs(std::abs(right) + std::abs(down) - moved(object.direction)) < 0.1);

    const auto video = (whole(scene) + 1) / 2;
    const auto row = static_cast<int64_t>(mean_of(cover[8], 0)),
               column = static_cast<int64_t>(mean_of(cover[8], 1));
    const auto& colour = kColours[static_cast<size_t>(object.colour)];
    CHECK(scene.caption.find(colour.name) != std::string::npos);
    CHECK((video.select(1, 8).select(1, row).select(1, column) - colour_of(colour.colour).flatten())
              .abs()
              .max()
              .item<float>() < 0.04);
    const auto& ground = kBackgrounds[static_cast<size_t>(scene.background)];
    CHECK(scene.caption.ends_with(std::string("on a ") + ground.name + " background"));
    CHECK((video.select(1, 8).select(1, 0).select(1, 0) - colour_of(ground.colour).flatten())
              .abs()
              .max()
              .item<float>() < 0.04);
  }
}

TEST_CASE("a caption says the shape: each covers its own area") {
  for (const auto& scene : single_scenes(40)) {
    CAPTURE(scene.caption);
    const auto& object = scene.objects.front();
    const double r = object.radius * 128;
    const double expected = object.shape == Shape::ball     ? std::numbers::pi * r * r
                            : object.shape == Shape::square ? std::pow(2 * 0.88 * r, 2)
                                                            : std::pow(1.7 * r, 2) / std::sqrt(3.0);
    CHECK(scene.caption.find(name_of(object.shape)) != std::string::npos);
    CHECK(cover_of(scene)[5].sum().item<double>() == doctest::Approx(expected).epsilon(0.02));
  }
}

TEST_CASE("edges are anti-aliased, and nothing leaves the frame") {
  for (const auto& scene : single_scenes(40)) {
    CAPTURE(scene.caption);
    const auto cover = cover_of(scene);
    CHECK((cover.gt(0.05) & cover.lt(0.95)).sum().item<int64_t>() > 17 * 10);
    for (const auto edge : {0, 127}) {
      CHECK(cover.select(1, edge).abs().max().item<float>() < 1e-4);
      CHECK(cover.select(2, edge).abs().max().item<float>() < 1e-4);
    }
  }
}

TEST_CASE("two objects have two sentences, and never meet") {
  int pairs = 0;
  for (uint64_t i = 0; i < 60; ++i) {
    const auto scene = scene_of(kSeed, i);
    CHECK((scene.objects.size() == 2) == (scene.caption.find(" and a ") != std::string::npos));
    if (scene.objects.size() < 2) continue;
    ++pairs;
    auto first = scene, second = scene;
    first.objects.pop_back();
    second.objects.erase(second.objects.begin());
    CAPTURE(scene.caption);
    const auto both = cover_of(first).gt(1e-3) & cover_of(second).gt(1e-3);
    CHECK_FALSE(both.any().item<bool>());
  }
  CHECK(pairs > 5);
}

TEST_CASE("a window is a part of the whole, with an outline in it") {
  for (uint64_t i = 0; i < 20; ++i) {
    const auto scene = scene_of(kSeed, i);
    const auto view = close_view(scene, whole_view(128, 17), 32, 5, kSeed, i);
    const auto part = draw({scene}, {view}, at::kCPU)[0];
    const auto expected = whole(scene)
                              .narrow(1, view.first, 5)
                              .narrow(2, static_cast<int64_t>(view.top), 32)
                              .narrow(3, static_cast<int64_t>(view.left), 32);
    CAPTURE(scene.caption);
    CHECK((part - expected).abs().max().item<float>() < 1e-3);
    CHECK(part.std().item<float>() > 0.01);
  }
  CHECK(wan_test::says(
      wan_test::message_of([] { close_view(scene_of(0, 0), whole_view(64, 9), 80, 9, 0, 0); }), "80", "64"));
}

}  // namespace shapes_test
