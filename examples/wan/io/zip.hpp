#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <wanpar/extend/files/mapped_file.hpp>

namespace wan {

/// Where an entry's bytes lie in its archive.
struct ZipEntry {
  uint64_t offset;
  uint64_t size;
};

/// The entries of a zip or zip64 archive by name, found through its central directory.
/// Throws Error when the directory is damaged or an entry is compressed or encrypted.
std::map<std::string, ZipEntry> zip_entries(const wanpar::MappedFile& file);

}  // namespace wan
