#pragma once
#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

// Endless captioned clips: one or two coloured shapes that move in a straight line over a plain background.
// A scene is known by its seed and number alone, and is drawn by tensor operations on any device.
namespace wan::train {

enum class Shape { ball, square, triangle };
enum class Direction { left, right, up, down };

using Colour = std::array<float, 3>;  ///< red, green, blue in 0..1

/// One moving shape. Lengths are in widths of the frame, which is square, and times in lengths of the clip.
struct Object {
  Shape shape;
  Direction direction;
  int64_t colour;  ///< in kColours
  Colour painted;  ///< that colour, a little changed
  double radius;   ///< half of its extent, more or less
  double x, y;     ///< the centre in the middle of the clip
  double travel;   ///< the whole way
};

struct Scene {
  std::vector<Object> objects;
  int64_t background;  ///< in kBackgrounds
  Colour painted;
  std::string caption;  ///< "a small red ball moves left on a dark blue background"
};

struct Named {
  const char* name;
  Colour colour;
};
extern const std::vector<Named> kColours, kBackgrounds;
const char* name_of(Shape shape);
const char* name_of(Direction direction);

/// Scene `index` of the world `seed`. Of the objects of a scene none meets another or leaves the frame.
Scene scene_of(uint64_t seed, uint64_t index);

/// What of the scenes is drawn: a window of `side` x `side` pixels of a frame of `frame_side`, and `frames`
/// frames from `first` on of a clip of `clip_frames`.
struct View {
  int64_t frame_side = 128;
  int64_t clip_frames = 17;
  int64_t side = 128;
  int64_t frames = 17;
  double left = 0, top = 0;
  int64_t first = 0;
};

/// The whole of a clip.
View whole_view(int64_t frame_side, int64_t clip_frames);

/// A window of `side` pixels and `frames` frames in which part of an object's outline is to be seen, chosen
/// by seed and index.
View close_view(const Scene& scene, const View& whole, int64_t side, int64_t frames, uint64_t seed,
                uint64_t index);

/// The scenes, each in its own view: [scenes, 3, frames, side, side] in [-1, 1], float32. All views are of
/// one size. Edges are anti-aliased: a pixel has the share of the shape that covers it.
at::Tensor draw(const std::vector<Scene>& scenes, const std::vector<View>& views, at::Device device);

}  // namespace wan::train
