#include <wanpar/files/safetensors.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>
#include <wanpar/extend/files/json.hpp>
#include <wanpar/extend/files/mapped_file.hpp>
#include <wanpar/extend/files/new_file.hpp>

namespace wanpar {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are little-endian and used in place");

constexpr uint64_t kHeaderLimit = 100'000'000;
constexpr uint64_t kPrefix = sizeof(uint64_t);
constexpr const char* kMetadata = "__metadata__";

constexpr std::pair<const char*, at::ScalarType> kDtypes[] = {
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
    {"U64", at::kUInt64},
    {"U32", at::kUInt32},
    {"U16", at::kUInt16},
    {"C64", at::kComplexFloat},
    {"F8_E8M0", at::kFloat8_e8m0fnu},
};

struct Record {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin, end;  // bytes, counted from the end of the header
};

at::ScalarType dtype_named(const std::string& name, const std::string& where) {
  for (const auto& [known, dtype] : kDtypes) {
    if (name == known) return dtype;
  }
  throw Error(fmt::format("{} has the dtype '{}', which is not supported", where, name));
}

/// Bytes of a contiguous tensor, or nothing where 64 bits cannot count them: multiplied from the left, as the
/// format's own checker does, so that a nought hides only what follows it.
std::optional<uint64_t> byte_count(const std::vector<int64_t>& shape, at::ScalarType dtype) {
  uint64_t elements = 1, bytes = 0;
  for (const int64_t size : shape)
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements)) return std::nullopt;
  if (__builtin_mul_overflow(elements, c10::elementSize(dtype), &bytes)) return std::nullopt;
  return bytes;
}

/// The unsigned numbers of a list; the JSON library alone would turn -1 or 1.5 into one.
std::vector<int64_t> counts(const nlohmann::json& tensor, const char* key, const std::string& where) {
  const auto list = value_at<nlohmann::json>(tensor, key, where);
  const auto is_count = [](const nlohmann::json& number) {
    return number.is_number_unsigned() && number.get<uint64_t>() <= std::numeric_limits<int64_t>::max();
  };
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), is_count)) {
    throw Error(fmt::format("{}: '{}' must be a list of counts, but is {}", where, key, shown(list)));
  }
  return list.get<std::vector<int64_t>>();
}

Record record_of(const std::string& name, const nlohmann::json& tensor, const std::string& file) {
  const auto where = fmt::format("{}: tensor '{}'", file, name);
  if (!tensor.is_object()) throw Error(where + " is not described by a JSON object");
  const auto dtype = dtype_named(value_at<std::string>(tensor, "dtype", where), where);
  const auto shape = counts(tensor, "shape", where);
  const auto offsets = counts(tensor, "data_offsets", where);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    throw Error(where + ": 'data_offsets' must be a begin and an end");
  }
  const auto bytes = byte_count(shape, dtype);
  if (!bytes) throw Error(fmt::format("{}: the shape [{}] overflows", where, fmt::join(shape, ", ")));
  const auto begin = static_cast<uint64_t>(offsets[0]), end = static_cast<uint64_t>(offsets[1]);
  if (end - begin != *bytes) {
    throw Error(fmt::format("{}: the shape [{}] of {} needs {} bytes, but its offsets hold {}", where,
                            fmt::join(shape, ", "), c10::toString(dtype), *bytes, end - begin));
  }
  return {name, dtype, shape, begin, end};
}

/// The header's text; what follows it in the file are the tensors.
std::string_view header_of(std::string_view bytes, const std::string& file) {
  if (bytes.size() < kPrefix) {
    throw Error(fmt::format("{}: {} bytes cannot hold a safetensors header", file, bytes.size()));
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kPrefix);
  if (length > kHeaderLimit) {
    throw Error(fmt::format("{}: not a safetensors file, its header would have {} bytes (at most {})", file,
                            length, kHeaderLimit));
  }
  if (length > bytes.size() - kPrefix) {
    throw Error(fmt::format("{} is truncated: its header has {} bytes, but only {} follow; fetch it again",
                            file, length, bytes.size() - kPrefix));
  }
  const auto header = bytes.substr(kPrefix, length);
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // the JSON library would pass over it
  if (header.starts_with(kByteOrderMark)) {
    throw Error(fmt::format("{}: the safetensors header does not start with '{{'", file));
  }
  return header;
}

void check_metadata(const nlohmann::json& metadata, const std::string& file) {
  const auto is_text = [](const nlohmann::json& value) { return value.is_string(); };
  if (!metadata.is_object() || !std::all_of(metadata.begin(), metadata.end(), is_text)) {
    throw Error(fmt::format("{}: '{}' must hold nothing but strings", file, kMetadata));
  }
}

/// The tensors must tile the data: each begins where the one before ends, and the last ends with the file.
void check_tiling(const std::vector<Record>& records, uint64_t data, const std::string& file) {
  uint64_t end = 0;
  for (const auto& record : records) {
    if (record.begin != end) {
      throw Error(fmt::format("{}: tensor '{}' begins at byte {} of the data, but should at {}: {}", file,
                              record.name, record.begin, end,
                              record.begin < end ? "tensors overlap" : "there is a hole"));
    }
    end = record.end;
    if (end > data) {
      throw Error(fmt::format(
          "{} is truncated: tensor '{}' ends at byte {} of the data, but there are {}; fetch it again", file,
          record.name, end, data));
    }
  }
  if (end != data) {
    throw Error(fmt::format("{}: {} bytes follow the last tensor{}", file, data - end,
                            records.empty() ? "" : ", '" + records.back().name + "'"));
  }
}

std::vector<Record> records_of(std::string_view header, uint64_t data, const std::string& file) {
  std::vector<Record> records;
  const auto json = parse_json(header, file, Repeats::of_tensors);
  for (const auto& [name, value] : json.items()) {
    if (name == kMetadata) {
      check_metadata(value, file);
    } else {
      records.push_back(record_of(name, value, file));
    }
  }
  std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  check_tiling(records, data, file);
  return records;
}

/// Those of a tensor without elements, whatever they are, would only overflow.
std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  if (std::count(shape.begin(), shape.end(), 0) > 0) return strides;
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

const char* name_of(at::ScalarType dtype, const std::string& tensor) {
  for (const auto& [name, known] : kDtypes) {
    if (dtype == known) return name;
  }
  throw Error(fmt::format("tensor '{}': safetensors has no name for {}", tensor, c10::toString(dtype)));
}

/// The widest elements first, so that every tensor is aligned without a hole.
std::vector<std::string> order_on_disk(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  std::stable_sort(names.begin(), names.end(), [&](const std::string& a, const std::string& b) {
    return tensors.at(a).element_size() > tensors.at(b).element_size();
  });
  return names;
}

}  // namespace

std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const auto header = header_of(file->bytes(), path.string());
  const uint64_t data = kPrefix + header.size();

  std::map<std::string, at::Tensor> tensors;
  for (const auto& record : records_of(header, file->bytes().size() - data, path.string())) {
    const auto strides = contiguous_strides(record.shape);
    const TensorLayout layout{data + record.begin, record.shape, strides, record.dtype};
    tensors.emplace(record.name, layout.of(file));
  }
  return tensors;
}

void write_safetensors(const PartFile& part, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const auto names = order_on_disk(tensors);
  auto header = nlohmann::json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  uint64_t end = 0;
  for (const auto& name : names) {
    const auto& tensor = tensors.at(name);
    const uint64_t begin = std::exchange(end, end + tensor.numel() * tensor.element_size());
    header[name] = {{"dtype", name_of(tensor.scalar_type(), name)},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {begin, end}}};
  }
  auto text = header.dump();
  text.append((kPrefix - text.size() % kPrefix) % kPrefix, ' ');

  NewFile file(part);
  const uint64_t length = text.size();
  file.write({reinterpret_cast<const char*>(&length), kPrefix});
  file.write(text);
  for (const auto& name : names) {
    const auto tensor = tensors.at(name).detach().cpu().contiguous();
    file.write({static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  file.close();
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  PartFile file(path);
  write_safetensors(file, tensors, metadata);
  file.commit();
}

}  // namespace wanpar
