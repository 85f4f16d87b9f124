#pragma once
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <wanpar/extend/files/part_file.hpp>

namespace wan {

/// Writes `pixels` [height, width, 3] uint8 as a PNG; the file appears whole or not at all. Throws Error.
void write_png(const std::filesystem::path& path, const at::Tensor& pixels);
/// The same, for the caller to commit.
void write_png(const wanpar::PartFile& file, const at::Tensor& pixels);

/// The same as bytes. Throws Error.
std::string png_of(const at::Tensor& pixels);

/// Up to twelve frames of a video [3, frames, height, width] in [-1, 1], spread evenly from the first to the
/// last, row by row on a white sheet [height, width, 3] uint8. Frames wider than 480 pixels are made smaller,
/// and those narrower than 240 larger, by a whole factor.
at::Tensor contact_sheet(const at::Tensor& video);

}  // namespace wan
