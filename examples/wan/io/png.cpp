#include "wan/io/png.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <png.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/part_file.hpp>

#include "wan/io/pixels.hpp"

namespace wan {
namespace {

constexpr int64_t kMaxCells = 12;
constexpr int64_t kColumns = 4;
constexpr int64_t kMinCellWidth = 240;
constexpr int64_t kMaxCellWidth = 480;
constexpr int64_t kGap = 4;

/// A frame made smaller or larger by a whole factor, where it is wider or narrower than a cell may be.
at::Tensor fitted(const at::Tensor& frame) {
  const auto width = frame.size(2);
  if (width > kMaxCellWidth)
    return at::avg_pool2d(frame.to(at::kFloat), (width + kMaxCellWidth - 1) / kMaxCellWidth);
  if (width >= kMinCellWidth) return frame;
  const auto factor = (kMinCellWidth + width - 1) / width;
  const int64_t size[] = {frame.size(1) * factor, width * factor};
  return at::upsample_bilinear2d(frame.to(at::kFloat).unsqueeze(0), size, /*align_corners=*/false).squeeze(0);
}

png_image image_of(const at::Tensor& pixels) {
  if (pixels.dim() != 3 || pixels.size(2) != 3 || pixels.scalar_type() != at::kByte)
    throw wanpar::Error(fmt::format("a PNG wants [height, width, 3] uint8, found {} {}",
                                    fmt::join(pixels.sizes(), "x"), c10::toString(pixels.scalar_type())));
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(pixels.size(1));
  image.height = static_cast<png_uint_32>(pixels.size(0));
  image.format = PNG_FORMAT_RGB;
  return image;
}

}  // namespace

std::string png_of(const at::Tensor& pixels) {
  auto image = image_of(pixels);
  const auto rows = pixels.cpu().contiguous();
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, rows.data_ptr(), 0, nullptr))
    throw wanpar::Error(fmt::format("a PNG could not be made: {}", image.message));
  bytes.resize(size);
  return bytes;
}

void write_png(const wanpar::PartFile& file, const at::Tensor& pixels) {
  auto image = image_of(pixels);
  const auto rows = pixels.cpu().contiguous();
  errno = 0;
  if (!png_image_write_to_file(&image, file.part().c_str(), 0, rows.data_ptr(), 0, nullptr))
    wanpar::throw_write_error(file.path(), errno != 0 ? std::strerror(errno) : image.message);
}

void write_png(const std::filesystem::path& path, const at::Tensor& pixels) {
  wanpar::PartFile file(path);
  write_png(file, pixels);
  file.commit();
}

at::Tensor contact_sheet(const at::Tensor& video) {
  const auto frames = video.size(1);
  const auto cells = std::min(frames, kMaxCells);
  const auto columns = std::min(cells, kColumns);
  const auto rows = (cells + columns - 1) / columns;

  at::Tensor sheet;
  for (int64_t cell = 0; cell < cells; ++cell) {
    const auto frame = cells == 1 ? 0 : cell * (frames - 1) / (cells - 1);
    const auto pixels = to_pixels(fitted(video.select(1, frame)));
    const auto height = pixels.size(0), width = pixels.size(1);
    if (!sheet.defined())
      sheet = at::full({rows * (height + kGap) - kGap, columns * (width + kGap) - kGap, 3}, 255, at::kByte);
    sheet.narrow(0, cell / columns * (height + kGap), height)
        .narrow(1, cell % columns * (width + kGap), width)
        .copy_(pixels);
  }
  return sheet;
}

}  // namespace wan
