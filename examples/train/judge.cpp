#include "train/judge.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <wanpar/core/error.hpp>

namespace wan::train {
namespace {

constexpr double kNearColour = 0.3;    // to a colour, of all that red, green and blue may differ by
constexpr double kLeastCover = 0.002;  // of a frame is covered by an object
constexpr double kLeastWay = 0.05;     // of the frame's side, or it has not moved

at::Tensor colour_tensor(const Colour& colour) {
  return at::tensor({colour[0], colour[1], colour[2]}, at::kFloat).view({3, 1, 1, 1});
}

/// Nothing leaves the frame, so what is most frequent at its borders is the background.
at::Tensor background_of(const at::Tensor& frames) {
  const auto borders = at::cat({frames.select(2, 0).flatten(1), frames.select(2, -1).flatten(1),
                                frames.select(3, 0).flatten(1), frames.select(3, -1).flatten(1)},
                               1);
  return std::get<0>(borders.median(1)).view({3, 1, 1, 1});
}

/// For each pixel the number of the colour that it has, -1 for none: that it is near to, nearer than to any
/// other and than to the background. [frames, height, width]
at::Tensor colours_of(const at::Tensor& frames) {
  std::vector<at::Tensor> distances = {(frames - background_of(frames)).norm(2, 0)};
  for (const auto& colour : kColours) distances.push_back((frames - colour_tensor(colour.colour)).norm(2, 0));
  const auto [distance, number] = at::stack(distances).min(0);
  return at::where(distance < kNearColour, number - 1, -1);
}

/// The parts of a mask [frames, height, width] that hang together when all frames lie on one another: objects
/// of one colour never cross each other's way.
std::vector<at::Tensor> parts_of(const at::Tensor& mask) {
  const auto is_object = [](const at::Tensor& part) {
    return part.to(at::kFloat).mean().item<double>() > kLeastCover;
  };
  if (!is_object(mask)) return {};
  const auto covered = mask.any(0).to(at::kFloat);
  auto labels = at::arange(1, covered.numel() + 1, at::kFloat).view_as(covered) * covered;
  while (true) {
    const auto next = at::max_pool2d(labels.unsqueeze(0), 3, 1, 1).squeeze(0) * covered;
    if (next.equal(labels)) break;
    labels = next;
  }
  std::vector<at::Tensor> parts;
  const auto all = std::get<0>(at::_unique(labels));
  for (int64_t i = 0; i < all.size(0); ++i) {
    if (all[i].item<float>() == 0) continue;
    const auto part = mask & labels.eq(all[i]);
    if (is_object(part)) parts.push_back(part);
  }
  return parts;
}

/// Moments of each frame of a mask, [frames]; those behind the first two are central.
struct Moments {
  at::Tensor x, y, xx, yy, yyy, xxyy;
};

Moments moments_of(const at::Tensor& mask) {
  const auto weight = mask.to(at::kDouble);
  const auto area = weight.sum({1, 2});
  const auto mean = [&](const at::Tensor& values) { return (values * weight).sum({1, 2}) / area; };
  const auto columns = at::arange(mask.size(2), at::kDouble).view({1, 1, -1}),
             rows = at::arange(mask.size(1), at::kDouble).view({1, -1, 1});
  const auto x = mean(columns), y = mean(rows);
  const auto dx = columns - x.view({-1, 1, 1}), dy = rows - y.view({-1, 1, 1});
  return {x, y, mean(dx.square()), mean(dy.square()), mean(dy.pow(3)), mean((dx * dy).square())};
}

Shape shape_of(const Moments& moments) {
  // Of an ideal triangle -0.57, of the others 0.
  if ((moments.yyy / moments.yy.pow(1.5)).mean().item<double>() < -0.28) return Shape::triangle;
  // Of an ideal square 1, of a ball 2/3.
  const auto corners = (moments.xxyy / (moments.xx * moments.yy)).mean().item<double>();
  return corners > 0.83 ? Shape::square : Shape::ball;
}

std::optional<Direction> direction_of(const Moments& moments, double height, double width) {
  const auto way = [](const at::Tensor& place) { return (place[-1] - place[0]).item<double>(); };
  const double right = way(moments.x) / width, down = way(moments.y) / height;
  if (std::max(std::abs(right), std::abs(down)) < kLeastWay) return std::nullopt;
  if (std::abs(right) > std::abs(down)) return right > 0 ? Direction::right : Direction::left;
  return down > 0 ? Direction::down : Direction::up;
}

/// The place of a word among names; the number of names where it is none.
template <class Name>
size_t place_of(const std::string& word, size_t count, Name name) {
  size_t i = 0;
  while (i < count && word != name(i)) ++i;
  return i;
}

}  // namespace

std::vector<Sight> seen_in(const at::Tensor& video) {
  at::NoGradGuard no_grad;
  const auto frames = (video.to(at::kCPU, at::kFloat) + 1) / 2;
  const auto colours = colours_of(frames);
  std::vector<Sight> sights;
  for (size_t colour = 0; colour < kColours.size(); ++colour)
    for (const auto& part : parts_of(colours.eq(static_cast<int64_t>(colour)))) {
      const auto there = part.flatten(1).any(1).nonzero().flatten();
      const auto moments = moments_of(part.index_select(0, there));
      sights.push_back(
          {static_cast<int64_t>(colour), shape_of(moments),
           direction_of(moments, static_cast<double>(part.size(1)), static_cast<double>(part.size(2)))});
    }
  std::sort(sights.begin(), sights.end());
  return sights;
}

std::vector<Sight> said_in(const std::string& caption) {
  constexpr size_t kShapes = 3, kDirections = 4;
  std::vector<Sight> sights;
  std::optional<size_t> colour, shape;
  std::istringstream words(caption);
  for (std::string word; words >> word;) {
    const auto a_colour = place_of(word, kColours.size(), [](size_t i) { return kColours[i].name; });
    const auto a_shape = place_of(word, kShapes, [](size_t i) { return name_of(static_cast<Shape>(i)); });
    const auto a_direction =
        place_of(word, kDirections, [](size_t i) { return name_of(static_cast<Direction>(i)); });
    if (word == "on") break;  // the background
    if (a_colour < kColours.size()) colour = a_colour;
    if (a_shape < kShapes) shape = a_shape;
    if (a_direction == kDirections) continue;
    if (!colour || !shape) break;
    sights.push_back(
        {static_cast<int64_t>(*colour), static_cast<Shape>(*shape), static_cast<Direction>(a_direction)});
    colour.reset(), shape.reset();
  }
  if (sights.empty() || colour || shape)
    throw wanpar::Error(fmt::format(
        "'{}' does not name colour, shape and direction of all that moves, as in 'a red ball moves left'",
        caption));
  std::sort(sights.begin(), sights.end());
  return sights;
}

std::string describe(const std::vector<Sight>& sights) {
  std::vector<std::string> texts;
  for (const auto& sight : sights)
    texts.push_back(fmt::format(
        "a {} {} {}", kColours[static_cast<size_t>(sight.colour)].name, name_of(sight.shape),
        sight.direction ? std::string("moves ") + name_of(*sight.direction) : std::string("stays")));
  return texts.empty() ? "nothing" : fmt::format("{}", fmt::join(texts, " and "));
}

}  // namespace wan::train
