#pragma once
#include <ATen/core/Tensor.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/shapes.hpp"

// Tells what a clip of moving shapes shows, and what a caption says, so that the two can be compared.
namespace wan::train {

struct Sight {
  int64_t colour;  ///< in kColours
  Shape shape;
  std::optional<Direction> direction;  ///< none where it stays

  auto operator<=>(const Sight&) const = default;
};

/// The objects of a clip [3, frames, height, width] in [-1, 1], in the order of Sight. By image moments: a
/// shape's skewness tells the triangle, which is heavier below; how far it reaches into the corners tells the
/// square from the ball; and the way of its centre is its direction.
std::vector<Sight> seen_in(const at::Tensor& frames);

/// The objects that a caption names, in the order of Sight. Throws Error where one is named incompletely.
std::vector<Sight> said_in(const std::string& caption);

/// `a red ball moves left`
std::string describe(const std::vector<Sight>& sights);

}  // namespace wan::train
