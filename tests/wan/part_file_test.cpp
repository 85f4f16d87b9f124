#include "wan/io/part_file.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include "wan/fixture.hpp"

namespace fs = std::filesystem;

namespace part_file_test {

TEST_CASE("a part file takes its name only on commit, and leaves nothing without") {
  const wan_test::Folder folder;
  {
    wan::PartFile file(folder / "a");
    std::ofstream(file.part()) << "text";
    CHECK_FALSE(fs::exists(folder / "a"));
  }
  CHECK(fs::is_empty(folder.path));
  {
    wan::PartFile file(folder / "a");
    std::ofstream(file.part()) << "text";
    file.commit();
  }
  CHECK(fs::file_size(folder / "a") == 4);
  CHECK_FALSE(fs::exists(folder / "a.part"));
}

TEST_CASE("a path that cannot be written is refused before the work, with the reason") {
  const wan_test::Folder folder;
  CHECK_NOTHROW(wan::check_writable(folder / "video.mp4", 1000));
  CHECK(fs::is_empty(folder.path));
  CHECK_THROWS_WITH_AS(wan::check_writable(folder.path, 1), doctest::Contains("it is a folder"),
                       wanpar::Error);
  CHECK_THROWS_WITH_AS(wan::check_writable(folder / "no/video.mp4", 1),
                       doctest::Contains("there is no folder"), wanpar::Error);
  CHECK_THROWS_WITH_AS(wan::check_writable("/proc/video.mp4", 1),
                       doctest::Contains("/proc/video.mp4 cannot be written"), wanpar::Error);
  CHECK_THROWS_WITH_AS(wan::check_writable(folder / "video.mp4", uintmax_t{1} << 60),
                       doctest::Contains("about 1152921504606846976 bytes are needed, but only"),
                       wanpar::Error);
}

}  // namespace part_file_test
