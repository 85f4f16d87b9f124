#include "wan/io/png.hpp"

#include <doctest/doctest.h>

#include <png.h>

#include "wan/file_size_limit.hpp"
#include "wan/fixture.hpp"

namespace fs = std::filesystem;

namespace png_test {
namespace {

at::Tensor read_png(const fs::path& path) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  REQUIRE(png_image_begin_read_from_file(&image, path.c_str()));
  image.format = PNG_FORMAT_RGB;
  auto pixels = torch::empty({image.height, image.width, 3}, torch::kByte);
  REQUIRE(png_image_finish_read(&image, nullptr, pixels.data_ptr(), 0, nullptr));
  return pixels;
}

}  // namespace

TEST_CASE("a PNG read back has the pixels that were written") {
  const wan_test::Folder folder;
  const auto pixels = torch::randint(256, {5, 7, 3}, torch::kByte);
  wan::write_png(folder / "picture.png", pixels);
  CHECK(torch::equal(read_png(folder / "picture.png"), pixels));
  CHECK(wan_test::files_in(folder) == 1);
}

TEST_CASE("a PNG that does not fit on the disk leaves no file and says so") {
  const wan_test::Folder folder;
  const auto pixels = torch::randint(256, {64, 64, 3}, torch::kByte);
  {
    const FileSizeLimit limit(4096);
    CHECK_THROWS_WITH_AS(wan::write_png(folder / "picture.png", pixels),
                         doctest::Contains("bytes are free there"), wanpar::Error);
  }
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("a contact sheet shows twelve frames, the first and the last among them, with gaps between") {
  auto video = torch::linspace(-1, 1, 23).view({1, 23, 1, 1}).expand({3, 23, 6, 240});
  const auto sheet = wan::contact_sheet(video);
  CHECK((sheet.sizes() == std::vector<int64_t>{3 * 6 + 2 * 4, 4 * 240 + 3 * 4, 3}));
  CHECK(sheet[0][0][0].item<int>() == 0);
  CHECK(sheet[0][240][0].item<int>() == 255);
  CHECK(sheet[6][0][0].item<int>() == 255);
  CHECK(sheet[0][244][0].item<int>() == 23);  // frame 2 of 0..22
  CHECK(sheet[25][971][0].item<int>() == 255);
}

TEST_CASE("a contact sheet of few frames is no larger than they need") {
  CHECK((wan::contact_sheet(torch::zeros({3, 1, 6, 240})).sizes() == std::vector<int64_t>{6, 240, 3}));
}

TEST_CASE("on a contact sheet wide frames are made smaller, and narrow ones larger") {
  CHECK((wan::contact_sheet(torch::zeros({3, 5, 480, 832})).sizes() ==
         std::vector<int64_t>{2 * 240 + 4, 4 * 416 + 3 * 4, 3}));
  auto halves = torch::ones({3, 1, 64, 128});
  halves.narrow(3, 0, 64).fill_(-1);
  const auto sheet = wan::contact_sheet(halves);
  REQUIRE((sheet.sizes() == std::vector<int64_t>{128, 256, 3}));
  CHECK(sheet[127][126][0].item<int>() == 0);
  CHECK(sheet[0][129][0].item<int>() == 255);
}

}  // namespace png_test
