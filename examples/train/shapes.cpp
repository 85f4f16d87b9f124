#include "train/shapes.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <wanpar/core/error.hpp>

#include "train/random.hpp"

namespace wan::train {

const std::vector<Named> kColours = {{"red", {0.90f, 0.10f, 0.10f}},   {"green", {0.15f, 0.75f, 0.20f}},
                                     {"blue", {0.15f, 0.35f, 0.95f}},  {"yellow", {0.95f, 0.85f, 0.15f}},
                                     {"white", {0.97f, 0.97f, 0.97f}}, {"purple", {0.62f, 0.20f, 0.80f}}};
const std::vector<Named> kBackgrounds = {{"black", {0.03f, 0.03f, 0.03f}},
                                         {"grey", {0.50f, 0.50f, 0.50f}},
                                         {"dark blue", {0.05f, 0.08f, 0.33f}},
                                         {"dark green", {0.04f, 0.27f, 0.10f}},
                                         {"brown", {0.38f, 0.23f, 0.11f}}};

const char* name_of(Shape shape) {
  constexpr const char* kNames[] = {"ball", "square", "triangle"};
  return kNames[static_cast<int>(shape)];
}

const char* name_of(Direction direction) {
  constexpr const char* kNames[] = {"left", "right", "up", "down"};
  return kNames[static_cast<int>(direction)];
}

namespace {

/// A range of values, and the word that a caption may say of it.
struct Grade {
  const char* word;
  double low, high;
};
constexpr Grade kSizes[] = {{"small ", 0.075, 0.095}, {"", 0.11, 0.14}, {"large ", 0.16, 0.19}};
constexpr Grade kSpeeds[] = {{"slowly ", 0.16, 0.22}, {"", 0.27, 0.35}, {"quickly ", 0.42, 0.5}};

constexpr double kGap = 0.02;  // between objects, and to the frame
constexpr double kPaintSpread = 0.03;

Colour painted(const Colour& colour, Random& random) {
  auto paint = colour;
  for (auto& part : paint)
    part = std::clamp(part + static_cast<float>(random.between(-kPaintSpread, kPaintSpread)), 0.0f, 1.0f);
  return paint;
}

bool is_horizontal(const Object& object) {
  return object.direction == Direction::left || object.direction == Direction::right;
}

/// Half of the width and height of all that an object passes over.
std::pair<double, double> reach(const Object& object) {
  const double along = object.radius + object.travel / 2;
  return is_horizontal(object) ? std::pair(along, object.radius) : std::pair(object.radius, along);
}

bool meet(const Object& a, const Object& b) {
  const auto [ax, ay] = reach(a);
  const auto [bx, by] = reach(b);
  return std::abs(a.x - b.x) < ax + bx + kGap && std::abs(a.y - b.y) < ay + by + kGap;
}

/// An object, and how a caption names it.
struct Drawn {
  Object object;
  std::string words;
};

Drawn draw_object(Random& random) {
  const auto colour = random.below(static_cast<int64_t>(kColours.size()));
  const auto &size = kSizes[random.below(3)], &speed = kSpeeds[random.below(3)];
  Object object{.shape = static_cast<Shape>(random.below(3)),
                .direction = static_cast<Direction>(random.below(4)),
                .colour = colour,
                .painted = painted(kColours[static_cast<size_t>(colour)].colour, random),
                .radius = random.between(size.low, size.high),
                .x = 0,
                .y = 0,
                .travel = random.between(speed.low, speed.high)};
  const auto [half_width, half_height] = reach(object);
  object.x = random.between(half_width + kGap, 1 - half_width - kGap);
  object.y = random.between(half_height + kGap, 1 - half_height - kGap);
  // What is left unsaid may be anything.
  const auto said = [&](const char* word) { return random.chance(0.6) ? word : ""; };
  const auto* size_word = said(size.word);
  return {object, fmt::format("a {}{} {} moves {}{}", size_word, kColours[static_cast<size_t>(colour)].name,
                              name_of(object.shape), said(speed.word), name_of(object.direction))};
}

std::optional<Drawn> draw_beside(const Object& first, Random& random) {
  for (int tries = 0; tries < 40; ++tries) {
    auto drawn = draw_object(random);
    if (!meet(first, drawn.object)) return drawn;
  }
  return std::nullopt;
}

}  // namespace

Scene scene_of(uint64_t seed, uint64_t index) {
  Random random(seed, Stream::scenes, index);
  const auto background = random.below(static_cast<int64_t>(kBackgrounds.size()));
  const auto& ground = kBackgrounds[static_cast<size_t>(background)];
  Scene scene{
      .objects = {}, .background = background, .painted = painted(ground.colour, random), .caption = {}};

  const auto first = draw_object(random);
  scene.objects.push_back(first.object);
  scene.caption = first.words;
  if (random.chance(0.25)) {
    if (const auto second = draw_beside(first.object, random)) {
      scene.objects.push_back(second->object);
      scene.caption += " and " + second->words;
    }
  }
  scene.caption += fmt::format(" on a {} background", ground.name);
  return scene;
}

View whole_view(int64_t frame_side, int64_t clip_frames) {
  return {.frame_side = frame_side, .clip_frames = clip_frames, .side = frame_side, .frames = clip_frames};
}

View close_view(const Scene& scene, const View& whole, int64_t side, int64_t frames, uint64_t seed,
                uint64_t index) {
  if (side > whole.side || frames > whole.clip_frames)
    throw wanpar::Error(
        fmt::format("shapes: a window of {} pixels and {} frames is larger than the clip of {} and {}", side,
                    frames, whole.side, whole.clip_frames));
  Random random(seed, Stream::views, index);
  auto view = whole;
  view.side = side, view.frames = frames;
  view.first = random.below(whole.clip_frames - frames + 1);
  const auto& object =
      scene.objects[static_cast<size_t>(random.below(static_cast<int64_t>(scene.objects.size())))];
  const auto extent = static_cast<double>(whole.frame_side), window = static_cast<double>(side);
  const auto around = [&](double centre) {
    const double spread = window / 2 + 0.5 * object.radius * extent;
    return std::clamp(centre * extent - window / 2 + random.between(-spread, spread), 0.0, extent - window);
  };
  // Where the object is at the middle of the window's frames.
  const double time = (static_cast<double>(view.first) + static_cast<double>(frames - 1) / 2) /
                          std::max<double>(1, static_cast<double>(whole.clip_frames - 1)) -
                      0.5;
  const double moved = time * object.travel *
                       (object.direction == Direction::left || object.direction == Direction::up ? -1 : 1);
  view.left = std::floor(around(object.x + (is_horizontal(object) ? moved : 0)));
  view.top = std::floor(around(object.y + (is_horizontal(object) ? 0 : moved)));
  return view;
}

namespace {

/// How far inside of the shape each pixel is, in pixels; x and y from the centre, r the radius.
at::Tensor depth(Shape shape, const at::Tensor& x, const at::Tensor& y, const at::Tensor& r) {
  switch (shape) {
    case Shape::ball:
      return r - at::sqrt(x.square() + y.square());
    case Shape::square:
      return 0.88 * r - at::maximum(x.abs(), y.abs());
    case Shape::triangle:
      break;
  }
  // Equilateral, a corner up, and as wide as the object's box: inside of three lines, each a third of the
  // height from the centre, which lies lower than the middle of the box.
  const double kHeight = 1.7, kSlope = std::sqrt(3.0) / 2;
  const auto down = y - (kHeight / 2 - kHeight / 3) * r;
  return kHeight / 3 * r - at::maximum(down, kSlope * x.abs() - 0.5 * down);
}

constexpr int64_t kNumbers = 9;  // that draw() is told of an object

}  // namespace

at::Tensor draw(const std::vector<Scene>& scenes, const std::vector<View>& views, at::Device device) {
  size_t most = 0;
  for (const auto& scene : scenes) most = std::max(most, scene.objects.size());
  const auto count = static_cast<int64_t>(scenes.size()), objects = static_cast<int64_t>(most);
  const auto& view = views.front();

  // Of each object: centre and velocity in pixels of the view, radius, kind (-1 where there is none), colour.
  auto numbers = at::full({count, objects, kNumbers}, -1.0f), grounds = at::empty({count, 3});
  auto told = numbers.accessor<float, 3>();
  auto ground = grounds.accessor<float, 2>();
  for (int64_t i = 0; i < count; ++i) {
    const auto& scene = scenes[static_cast<size_t>(i)];
    const auto& seen = views[static_cast<size_t>(i)];
    if (seen.side != view.side || seen.frames != view.frames)
      throw wanpar::Error("shapes: views that are drawn together must be of one size");
    for (int64_t c = 0; c < 3; ++c) ground[i][c] = scene.painted[static_cast<size_t>(c)];
    for (size_t k = 0; k < scene.objects.size(); ++k) {
      const auto& object = scene.objects[k];
      const auto extent = static_cast<double>(seen.frame_side);
      const double sign = object.direction == Direction::left || object.direction == Direction::up ? -1 : 1;
      const double steps = std::max<double>(1, static_cast<double>(seen.clip_frames - 1));
      const double speed = sign * object.travel * extent / steps;
      const double vx = is_horizontal(object) ? speed : 0, vy = is_horizontal(object) ? 0 : speed;
      const double since = static_cast<double>(seen.first) - steps / 2;
      const double values[kNumbers] = {object.x * extent - seen.left + vx * since,
                                       object.y * extent - seen.top + vy * since,
                                       vx,
                                       vy,
                                       object.radius * extent,
                                       static_cast<double>(object.shape),
                                       object.painted[0],
                                       object.painted[1],
                                       object.painted[2]};
      for (int64_t n = 0; n < kNumbers; ++n)
        told[i][static_cast<int64_t>(k)][n] = static_cast<float>(values[n]);
    }
  }
  numbers = numbers.to(device);

  const auto options = at::TensorOptions(device).dtype(at::kFloat);
  const auto time = at::arange(view.frames, options).view({1, -1, 1, 1});
  const auto pixels = at::arange(view.side, options) + 0.5;
  auto video =
      grounds.to(device).view({count, 3, 1, 1, 1}).expand({-1, -1, view.frames, view.side, view.side});
  for (int64_t k = 0; k < objects; ++k) {
    const auto number = [&](int64_t n) { return numbers.select(1, k).select(1, n).view({count, 1, 1, 1}); };
    const auto x = pixels.view({1, 1, 1, -1}) - (number(0) + number(2) * time);
    const auto y = pixels.view({1, 1, -1, 1}) - (number(1) + number(3) * time);
    auto cover = at::zeros({1}, options);
    for (const auto shape : {Shape::ball, Shape::square, Shape::triangle}) {
      const auto is_this = number(5).eq(static_cast<double>(shape));
      cover = cover + (depth(shape, x, y, number(4)) + 0.5).clamp(0, 1) * is_this;
    }
    const auto colour = numbers.select(1, k).narrow(1, 6, 3).view({count, 3, 1, 1, 1});
    video = at::lerp(video, colour.expand_as(video), cover.unsqueeze(1).expand_as(video));
  }
  return video * 2 - 1;
}

}  // namespace wan::train
