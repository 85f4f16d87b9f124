#include <wanpar/extend/files/part_file.hpp>

#include <doctest/doctest.h>

#include <sys/stat.h>

#include <cstring>
#include <fstream>

#include "wan/fixture.hpp"

namespace fs = std::filesystem;

namespace part_file_test {

TEST_CASE("a part file takes its name only on commit, and leaves nothing without") {
  const wan_test::Folder folder;
  {
    wanpar::PartFile file(folder / "a");
    std::ofstream(file.part()) << "text";
    CHECK_FALSE(fs::exists(folder / "a"));
  }
  CHECK(fs::is_empty(folder.path));
  {
    wanpar::PartFile file(folder / "a");
    std::ofstream(file.part()) << "text";
    file.commit();
  }
  CHECK(fs::file_size(folder / "a") == 4);
  CHECK(wan_test::files_in(folder) == 1);
}

TEST_CASE("parts have names of their own, and touch no file of others") {
  const wan_test::Folder folder;
  std::ofstream(folder / "a.part") << "another's";
  fs::create_directory(folder / "b.part");
  {
    const wanpar::PartFile one(folder / "a"), other(folder / "a"), third(folder / "b");
    CHECK(one.part() != other.part());
    CHECK(one.part() != folder / "a.part");
  }
  CHECK(fs::file_size(folder / "a.part") == 9);
  CHECK(fs::is_directory(folder / "b.part"));
  CHECK(wan_test::files_in(folder) == 2);
}

TEST_CASE("a link stays a link: what it points to is written, also where that is not there yet") {
  const wan_test::Folder folder;
  fs::create_directory(folder / "there");
  fs::create_symlink("there/file", folder / "link");
  for (const auto* text : {"one", "three"}) {
    CHECK_NOTHROW(wanpar::check_writable(folder / "link", 1));
    wanpar::PartFile file(folder / "link");
    std::ofstream(file.part()) << text;
    file.commit();
    CHECK(fs::is_symlink(folder / "link"));
    CHECK(fs::file_size(folder / "there/file") == std::strlen(text));
  }
  CHECK(wan_test::files_in(folder / "there") == 1);
}

TEST_CASE("files are named all together: where one cannot be, those before it are as they were") {
  const wan_test::Folder folder;
  std::ofstream(folder / "old") << "old";
  std::vector<wanpar::PartFile> files;
  for (const auto* name : {"old", "new", "taken"}) {
    files.emplace_back(folder / name);
    std::ofstream(files.back().part()) << "replaced";
  }
  fs::create_directory(folder / "taken");  // at the last moment
  CHECK_THROWS_WITH_AS(wanpar::commit_all(std::move(files)), doctest::Contains("taken cannot be written"),
                       wanpar::Error);
  files.clear();
  CHECK(fs::file_size(folder / "old") == 3);
  CHECK_FALSE(fs::exists(folder / "new"));
  CHECK(wan_test::files_in(folder) == 2);
}

TEST_CASE("a path that cannot be written is refused before the work, with the reason") {
  const wan_test::Folder folder;
  CHECK_NOTHROW(wanpar::check_writable(folder / "video.mp4", 1000));
  CHECK(fs::is_empty(folder.path));
  CHECK_THROWS_WITH_AS(wanpar::check_writable(folder.path, 1), doctest::Contains("it is a folder"),
                       wanpar::Error);
  CHECK_THROWS_WITH_AS(wanpar::check_writable(folder / "no/video.mp4", 1),
                       doctest::Contains("there is no folder"), wanpar::Error);
  ::mkfifo((folder / "pipe").c_str(), 0600);
  for (const auto& file : {fs::path("/dev/null"), folder / "pipe"})
    CHECK_THROWS_WITH_AS(wanpar::check_writable(file, 1), doctest::Contains("a device, a pipe or a socket"),
                         wanpar::Error);
  for (const auto& name : {std::string(256, 'x'), std::string(5000, 'y')})
    CHECK_THROWS_WITH_AS(wanpar::check_writable(folder / name, 1), doctest::Contains("File name too long"),
                         wanpar::Error);
  CHECK_THROWS_WITH_AS(wanpar::check_writable("/proc/video.mp4", 1),
                       doctest::Contains("/proc/video.mp4 cannot be written"), wanpar::Error);
  CHECK_THROWS_WITH_AS(wanpar::check_writable(folder / "video.mp4", uintmax_t{1} << 60),
                       doctest::Contains("about 1152921504606846976 bytes are needed, but only"),
                       wanpar::Error);
}

}  // namespace part_file_test
