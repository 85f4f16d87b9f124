#include "wan/io/zip.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "wanpar/core/error.hpp"

// Layout of the records: APPNOTE.TXT of PKWARE, sections 4.3 and 4.5.3.
namespace wan {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr uint16_t kZip64Field = 0x0001;
constexpr uint32_t kIn64 = 0xffffffff;  // stands for a number that only the zip64 record can hold

class ZipDirectory {
 public:
  explicit ZipDirectory(const wanpar::MappedFile& file) : bytes_(file.bytes()), name_(file.path().string()) {}

  std::map<std::string, ZipEntry> entries() const {
    std::map<std::string, ZipEntry> entries;
    auto [at, count] = directory();
    for (; count > 0; --count) {
      const auto [name, entry, next] = entry_at(at);
      if (!entries.emplace(name, entry).second) refuse(fmt::format("the entry '{}' occurs twice", name));
      at = next;
    }
    return entries;
  }

 private:
  struct Directory {
    uint64_t offset, count;
  };
  struct Found {
    std::string name;
    ZipEntry entry;
    uint64_t next;
  };

  Directory directory() const {
    constexpr uint64_t kEndSize = 22, kLongestComment = 0xffff, kLocatorSize = 20;
    if (bytes_.size() < kEndSize) refuse("it is too short");
    const uint64_t last = bytes_.size() - kEndSize;
    uint64_t end = last;
    while (number<uint32_t>(end) != kEnd) {
      if (end == 0 || last - end == kLongestComment) refuse("its directory is missing; download it again");
      --end;
    }
    const bool has_64 = end >= kLocatorSize && number<uint32_t>(end - kLocatorSize) == kEnd64Locator;
    if (!has_64) return {number<uint32_t>(end + 16), number<uint16_t>(end + 10)};
    const auto end64 = number<uint64_t>(end - kLocatorSize + 8);
    if (number<uint32_t>(end64) != kEnd64) refuse("its zip64 directory is damaged");
    return {number<uint64_t>(end64 + 48), number<uint64_t>(end64 + 32)};
  }

  Found entry_at(uint64_t at) const {
    if (number<uint32_t>(at) != kCentralHeader) refuse("its directory is damaged");
    const auto flags = number<uint16_t>(at + 8), method = number<uint16_t>(at + 10);
    const uint64_t name_size = number<uint16_t>(at + 28), extra_size = number<uint16_t>(at + 30);
    const uint64_t comment_size = number<uint16_t>(at + 32), header_size = 46;
    const std::string name(slice(at + header_size, name_size));
    if (method != 0 || (flags & 1) != 0) {
      refuse(fmt::format("the entry '{}' is compressed or encrypted; save it again with torch.save", name));
    }

    const auto stored = number<uint32_t>(at + 20), size = number<uint32_t>(at + 24);
    const auto header = number<uint32_t>(at + 42);
    auto field = zip64_field(slice(at + header_size + name_size, extra_size));
    const auto wide = [&](uint32_t narrow) -> uint64_t {
      if (narrow != kIn64) return narrow;
      if (field.size() < 8) refuse(fmt::format("the entry '{}' has no zip64 sizes", name));
      uint64_t value = 0;
      std::memcpy(&value, field.data(), sizeof value);
      field.remove_prefix(sizeof value);
      return value;
    };
    const uint64_t full_size = wide(size), stored_size = wide(stored), header_at = wide(header);
    if (full_size != stored_size) refuse(fmt::format("the entry '{}' has two sizes", name));
    const ZipEntry entry{data_of(header_at, name), full_size};
    slice(entry.offset, entry.size);
    return {name, entry, at + header_size + name_size + extra_size + comment_size};
  }

  uint64_t data_of(uint64_t header, const std::string& name) const {
    if (number<uint32_t>(header) != kLocalHeader) refuse(fmt::format("the entry '{}' is damaged", name));
    return header + 30 + number<uint16_t>(header + 26) + number<uint16_t>(header + 28);
  }

  std::string_view zip64_field(std::string_view extra) const {
    while (extra.size() >= 4) {
      uint16_t id = 0, size = 0;
      std::memcpy(&id, extra.data(), 2);
      std::memcpy(&size, extra.data() + 2, 2);
      extra.remove_prefix(4);
      if (id == kZip64Field) return extra.substr(0, size);
      extra.remove_prefix(std::min<size_t>(size, extra.size()));
    }
    return {};
  }

  template <class T>
  T number(uint64_t at) const {
    T value;
    std::memcpy(&value, slice(at, sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view slice(uint64_t at, uint64_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at) refuse("it is truncated; download it again");
    return bytes_.substr(at, size);
  }

  [[noreturn]] void refuse(const std::string& why) const {
    throw wanpar::Error(fmt::format("{} is not a zip archive that can be read: {}", name_, why));
  }

  std::string_view bytes_;
  std::string name_;
};

}  // namespace

std::map<std::string, ZipEntry> zip_entries(const wanpar::MappedFile& file) {
  return ZipDirectory(file).entries();
}

}  // namespace wan
