#include <wanpar/files/safetensors.hpp>

#include <doctest/doctest.h>

#include <fmt/format.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>

#include "wan/file_size_limit.hpp"
#include "wan/fixture.hpp"

using wan_test::message_of;
using wan_test::says;

namespace safetensors_test {
namespace {

/// A file made of a header, its length taken from the text, and data of so many zero bytes.
std::string file_of(const std::string& header, size_t data, uint64_t extra_length = 0) {
  const uint64_t length = header.size() + extra_length;
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header +
         std::string(data, '\0');
}

std::string refusal(const std::string& bytes) {
  wan_test::Folder folder;
  const auto file = folder / "bad.safetensors";
  std::ofstream(file, std::ios::binary) << bytes;
  const auto message = message_of([&] { wanpar::read_safetensors(file); });
  CHECK(says(message, "bad.safetensors"));
  return message;
}

}  // namespace

TEST_CASE("safetensors: what is written is read back, in every dtype") {
  wan_test::Folder folder;
  std::map<std::string, at::Tensor> tensors;
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kFloat8_e4m3fn, at::kFloat8_e5m2, at::kLong,
        at::kInt, at::kShort, at::kChar, at::kByte, at::kBool, at::kUInt16, at::kUInt32, at::kUInt64}) {
    tensors[c10::toString(dtype)] = at::arange(15).reshape({3, 5}).to(dtype);
  }
  tensors["scalar"] = at::full({}, 4.5);
  tensors["empty"] = at::zeros({0, 7});
  tensors["transposed"] = at::arange(6.0).reshape({2, 3}).t();
  wanpar::write_safetensors(folder / "x.safetensors", tensors, {{"format", "pt"}});

  const auto found = wanpar::read_safetensors(folder / "x.safetensors");
  REQUIRE(found.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    CAPTURE(name);
    REQUIRE((found.at(name).scalar_type() == tensor.scalar_type()));
    CHECK(found.at(name).sizes() == tensor.sizes());
    CHECK(at::equal(found.at(name).to(at::kDouble), tensor.to(at::kDouble)));
  }
  CHECK(wan_test::files_in(folder) == 1);
}

TEST_CASE("safetensors: a tensor keeps the file mapped, and writing to it leaves the file alone") {
  wan_test::Folder folder;
  wanpar::write_safetensors(folder / "x.safetensors", {{"a", at::ones(1000)}, {"b", at::zeros(1000)}});
  auto tensor = wanpar::read_safetensors(folder / "x.safetensors").at("a");
  CHECK(tensor.sum().item<double>() == 1000);
  tensor.fill_(2);
  CHECK(wanpar::read_safetensors(folder / "x.safetensors").at("a").sum().item<double>() == 1000);
}

TEST_CASE("safetensors: what the format's own library lets pass is read as it reads it") {
  wan_test::Folder folder;
  const auto read = [&](const std::string& bytes) {
    std::ofstream(folder / "x.safetensors", std::ios::binary) << bytes;
    return wanpar::read_safetensors(folder / "x.safetensors");
  };
  CHECK(read(file_of(" {}", 0)).empty());
  CHECK(read(file_of("{}  ", 0)).empty());
  const std::string one = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const std::string other = R"("a":{"dtype":"BOOL","shape":[1,1],"data_offsets":[0,1]})";
  CHECK(read(file_of("{" + one + "," + other + "}", 1)).at("a").dim() == 2);  // the last one counts
  CHECK(read(file_of(R"({"__metadata__":{"a":"b","a":"c"}})", 0)).empty());
  const std::string huge = R"({"a":{"dtype":"U8","shape":[0,8589934592,8589934592],"data_offsets":[0,0]}})";
  CHECK(read(file_of(huge, 0)).at("a").numel() == 0);
}

TEST_CASE("safetensors: a misaligned tensor is read all the same") {
  wan_test::Folder folder;
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  std::ofstream(folder / "x.safetensors", std::ios::binary) << file_of(header, 9);
  CHECK(at::equal(wanpar::read_safetensors(folder / "x.safetensors").at("b"), at::zeros(2)));
}

TEST_CASE("safetensors: malformed files are refused, with the file, the key and the reason") {
  const auto one = [](const std::string& body) { return "{\"key\":{" + body + "}}"; };
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  const std::string second = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"key":)";
  struct Case {
    std::string bytes;
    std::vector<std::string> parts;
  };
  const Case cases[] = {
      {"", {"empty"}},
      {"abc", {"3 bytes"}},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", {"Git LFS", "git lfs pull"}},
      {file_of("{}", 0, 200'000'000), {"200000002 bytes", "at most"}},
      {file_of("{}", 0, 50), {"truncated", "52"}},
      {file_of("\xEF\xBB\xBF{}", 0), {"does not start with '{'"}},
      {file_of(std::string("{}\0", 3), 0), {"not valid JSON"}},
      {file_of("{\"a\xff\": 1}", 0), {"not valid JSON"}},
      {file_of("{\"a\"", 0), {"not valid JSON"}},
      {file_of("{} x", 0), {"not valid JSON"}},
      {file_of("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", 0), {"nested"}},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), {"'__metadata__' occurs twice"}},
      {file_of(one(good + R"(,"shape":[2])"), 8), {"'shape' occurs twice"}},
      {file_of(R"({"key":3})", 0), {"'key'", "not described"}},
      {file_of(R"({"__metadata__":{"a":1}})", 0), {"__metadata__", "strings"}},
      {file_of(one(R"("shape":[2],"data_offsets":[0,8])"), 8), {"'key'", "'dtype' is missing"}},
      {file_of(one(R"("dtype":"F4","shape":[2],"data_offsets":[0,1])"), 1), {"'key'", "'F4'"}},
      {file_of(one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8), {"'key'", "'shape'"}},
      {file_of(one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8), {"'key'", "'shape'"}},
      {file_of(one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8), {"'key'", "begin and an end"}},
      {file_of(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])"), 8), {"'key'", "begin and an end"}},
      {file_of(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8), {"'key'", "12 bytes", "hold 8"}},
      {file_of(one(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"), 0),
       {"'key'", "overflows"}},
      {file_of(one(R"("dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), 0),
       {"'key'", "overflows"}},
      {file_of(one(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), 12), {"'key'", "hole"}},
      {file_of(second + R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12), {"'key'", "overlap"}},
      {file_of(second + R"({"dtype":"F32","shape":[2],"data_offsets":[12,20]}})", 20), {"'key'", "hole"}},
      {file_of(one(good), 7), {"'key'", "truncated"}},
      {file_of(one(good), 9), {"'key'", "1 bytes follow"}},
  };
  for (const auto& [bytes, parts] : cases) {
    const auto message = refusal(bytes);
    CAPTURE(message);
    for (const auto& part : parts) {
      CAPTURE(part);
      CHECK(says(message, part));
    }
  }
}

TEST_CASE("safetensors: a header of many tensors is read in a time that grows with it") {
  wan_test::Folder folder;
  std::string header = "{";
  constexpr int kTensors = 200'000;
  for (int i = 0; i < kTensors; ++i)
    header += fmt::format(R"("{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},)", i);
  header.back() = '}';
  std::ofstream(folder / "x.safetensors", std::ios::binary) << file_of(header, 0);
  const auto started = std::chrono::steady_clock::now();
  CHECK(wanpar::read_safetensors(folder / "x.safetensors").size() == kTensors);
  CHECK(std::chrono::steady_clock::now() - started < std::chrono::seconds(20));  // it took a minute
}

TEST_CASE("safetensors: a pipe in a file's place is refused, not waited for") {
  wan_test::Folder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(says(message_of([&] { wanpar::read_safetensors(folder / "pipe"); }), "pipe is not a regular file"));
}

TEST_CASE("safetensors: a missing file and a folder are named") {
  wan_test::Folder folder;
  CHECK(says(message_of([&] { wanpar::read_safetensors(folder / "no.safetensors"); }), "no.safetensors",
             "No such file"));
  CHECK(says(message_of([&] { wanpar::read_safetensors(folder.path); }), folder.path.string(),
             "not a regular file"));
}

TEST_CASE("safetensors: a full disk is an error, and the file that was there stays") {
  wan_test::Folder folder;
  const auto file = folder / "x.safetensors";
  wanpar::write_safetensors(file, {{"a", at::ones(4)}});

  const auto message = [&] {
    const FileSizeLimit limit(4096);
    return message_of([&] { wanpar::write_safetensors(file, {{"a", at::ones(100000)}}); });
  }();

  CHECK(says(message, "x.safetensors cannot be written"));
  CHECK(at::equal(wanpar::read_safetensors(file).at("a"), at::ones(4)));
  CHECK(wan_test::files_in(folder) == 1);
}

TEST_CASE("safetensors: a dtype without a name is refused before anything is written") {
  wan_test::Folder folder;
  const auto tensors = std::map<std::string, at::Tensor>{{"key", at::zeros({2}, at::kComplexDouble)}};
  const auto message = message_of([&] { wanpar::write_safetensors(folder / "x.safetensors", tensors); });
  CHECK(says(message, "'key'"));
  CHECK(!std::filesystem::exists(folder / "x.safetensors"));
}

}  // namespace safetensors_test
