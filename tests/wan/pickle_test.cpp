#include "wan/io/pickle.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>

#include "wan/fixture.hpp"

using wan_test::message_of;
using wan_test::says;

namespace pickle_test {
namespace {

std::string bytes_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// What read_pth says of state_dict.pth when the first `from` in it is changed into `to`.
std::string refusal(const std::string& from, const std::string& to) {
  auto bytes = bytes_of(TEST_DATA "/pth/state_dict.pth");
  const auto found = bytes.find(from);
  REQUIRE(found != std::string::npos);
  bytes.replace(found, from.size(), to);
  wan_test::Folder folder;
  std::ofstream(folder / "bad.pth", std::ios::binary) << bytes;
  const auto message = message_of([&] { wan::read_pth(folder / "bad.pth"); });
  CHECK(says(message, "bad.pth"));
  return message;
}

}  // namespace

TEST_CASE("pickle: a state dict with metadata is read, views of one storage among its tensors") {
  const auto tensors = wan::read_pth(TEST_DATA "/pth/state_dict.pth");
  const auto matrix = at::arange(6, at::kFloat).reshape({2, 3});
  REQUIRE(tensors.size() == 5);
  CHECK(at::equal(tensors.at("matrix"), matrix));
  CHECK(at::equal(tensors.at("transpose"), matrix.t()));
  CHECK(at::equal(tensors.at("column"), matrix.select(1, 1)));
  CHECK(tensors.at("transpose").data_ptr() == tensors.at("matrix").data_ptr());
  CHECK(tensors.at("scalar").dim() == 0);
  CHECK(tensors.at("scalar").item<double>() == 2.5);
  CHECK(at::equal(tensors.at("counts"), at::tensor({int64_t{1}, int64_t{1} << 40, int64_t{-3}})));
}

TEST_CASE("pickle: a plain dict of bfloat16 tensors is read, an empty one among them") {
  const auto tensors = wan::read_pth(TEST_DATA "/pth/plain.pth");
  REQUIRE(tensors.size() == 2);
  CHECK((tensors.at("blocks.0.weight").scalar_type() == at::kBFloat16));
  CHECK(at::equal(tensors.at("blocks.0.weight").to(at::kFloat), at::arange(8, at::kFloat).reshape({2, 4})));
  CHECK((tensors.at("empty").sizes() == at::IntArrayRef{0, 5}));
}

TEST_CASE("pickle: globals and opcodes beyond a state dict are refused by name") {
  CHECK(says(refusal("collections\nOrderedDict", "collections\ndefaultdict"), "collections.defaultdict"));
  CHECK(says(refusal("torch\nFloatStorage", "posix\nsystemsystem"), "posix.systemsystem"));
  CHECK(says(refusal("\x80\x02"
                     "c",
                     "\x80\x02"
                     "i"),
             "opcode 0x69", "byte 2"));
  CHECK(says(refusal("\x80\x02"
                     "c",
                     "\x80\x04"
                     "c"),
             "protocol 4"));
}

TEST_CASE("pickle: a tensor that reaches outside its storage is refused by its key") {
  const std::string size = "K\x02K\x03\x86";  // (2, 3)
  CHECK(says(refusal(size, "K\x03K\x03\x86"), "'matrix'", "[3, 3]", "6 elements"));
  CHECK(says(refusal("QK" + std::string(1, '\0') + size, "QK\x01" + size), "'matrix'", "offset 1"));
}

TEST_CASE("pickle: what is no archive, or a damaged one, is refused") {
  wan_test::Folder folder;
  const auto refused = [&](const std::string& bytes) {
    std::ofstream(folder / "bad.pth", std::ios::binary) << bytes;
    return message_of([&] { wan::read_pth(folder / "bad.pth"); });
  };
  const auto good = bytes_of(TEST_DATA "/pth/state_dict.pth");
  CHECK(says(refused("\x80\x02\x8a\x0a"), "bad.pth", "PyTorch 1.6"));
  CHECK(says(refused(good.substr(0, good.size() / 2)), "bad.pth", "download it again"));
  CHECK(says(refused("version https://git-lfs.github.com/spec/v1\n"), "bad.pth", "git lfs pull"));

  auto compressed = good;
  const auto central = compressed.find("PK\x01\x02");
  REQUIRE(central != std::string::npos);
  compressed[central + 10] = 8;
  CHECK(says(refused(compressed), "bad.pth", "data.pkl", "compressed"));
}

TEST_CASE("pickle: no truncated archive is read beyond its end") {
  wan_test::Folder folder;
  const auto good = bytes_of(TEST_DATA "/pth/plain.pth");
  for (size_t size = 1; size < good.size(); ++size) {
    std::ofstream(folder / "cut.pth", std::ios::binary) << good.substr(0, size);
    if (message_of([&] { wan::read_pth(folder / "cut.pth"); }).empty())
      FAIL("read with " << size << " bytes");
  }
}

}  // namespace pickle_test
