#include "train/judge.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>

#include "../wan/fixture.hpp"

using namespace wan::train;

namespace judge_test {
namespace {

constexpr uint64_t kSeed = 11;
constexpr int kClips = 200;

at::Tensor clip_of(const Scene& scene) { return draw({scene}, {whole_view(128, 17)}, at::kCPU)[0]; }

/// How many of the clips, changed so, show what their captions say.
int right_of(const std::function<at::Tensor(const at::Tensor&)>& change) {
  int right = 0;
  for (uint64_t i = 0; i < kClips; ++i) {
    const auto scene = scene_of(kSeed, i);
    const auto seen = seen_in(change(clip_of(scene)));
    if (seen == said_in(scene.caption))
      ++right;
    else
      MESSAGE("seen: ", describe(seen), "; said: ", scene.caption);
  }
  return right;
}

}  // namespace

TEST_CASE("the judge is right of 99 in 100 clips") {
  CHECK(right_of([](const at::Tensor& clip) { return clip; }) >= 0.99 * kClips);
}

TEST_CASE("the judge is right of 99 in 100 clips that are blurred and noisy, as decoded ones are") {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(1);
  CHECK(right_of([&](const at::Tensor& clip) {
          const auto blurred = at::avg_pool2d(clip, 3, 1, 1, false, false);
          return blurred + 0.08 * at::randn(clip.sizes(), generator, clip.options());  // 28 dB
        }) >= 0.99 * kClips);
}

TEST_CASE("what a caption says is what the scene is") {
  for (uint64_t i = 0; i < kClips; ++i) {
    const auto scene = scene_of(kSeed, i);
    std::vector<Sight> objects;
    for (const auto& object : scene.objects)
      objects.push_back({object.colour, object.shape, object.direction});
    std::sort(objects.begin(), objects.end());
    CAPTURE(scene.caption);
    CHECK(describe(said_in(scene.caption)) == describe(objects));
  }
  const auto message = wan_test::message_of([] { said_in("a red fox moves left"); });
  CHECK(wan_test::says(message, "a red fox moves left", "shape"));
}

TEST_CASE("the judge sees no movement in a clip that stands, and nothing where nothing is") {
  const auto scene = scene_of(kSeed, 0);
  const auto seen = seen_in(clip_of(scene).narrow(1, 3, 1).expand({3, 17, 128, 128}));
  REQUIRE(seen.size() == scene.objects.size());
  CHECK_FALSE(seen.front().direction.has_value());
  CHECK(wan_test::says(describe(seen), "stays"));
  CHECK(seen_in(at::zeros({3, 5, 64, 64})).empty());
}

}  // namespace judge_test
