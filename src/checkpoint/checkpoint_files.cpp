#include "checkpoint/checkpoint_files.hpp"

#include <ATen/ATen.h>
#include <c10/util/strides.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/json.hpp>
#include <wanpar/files/safetensors.hpp>

namespace wanpar {
namespace {

std::vector<int64_t> sizes_of(const NamedTensor& to) {
  return to.shard ? to.shard->sizes : to.tensor.sizes().vec();
}

/// Whether the elements have the same memory order in the file and in the tensor.
bool lies_as(const StoredTensor& stored, const NamedTensor& to) {
  if (to.shard) return to.shard->strides == stored.strides;
  return to.tensor.is_contiguous() &&
         c10::IntArrayRef(stored.strides) == c10::IntArrayRef(c10::contiguous_strides(to.tensor.sizes()));
}

}  // namespace

std::string checkpoint_file(int rank, int ranks) {
  return fmt::format("{:05}-of-{:05}.safetensors", rank, ranks);
}

bool is_checkpoint(const std::filesystem::path& folder) {
  std::error_code no;
  return std::filesystem::is_regular_file(folder / kCheckpointIndex, no);
}

CheckpointFiles::CheckpointFiles(std::filesystem::path folder)
    : folder_(std::move(folder)), index_(folder_ / kCheckpointIndex) {
  const auto json = read_json(index_);
  const auto where = index_.string();
  if (auto format = value_at<std::string>(json, "format", where); format != kCheckpointFormat)
    throw Error(fmt::format("{}: the format is '{}', but '{}' is what can be read", where, format,
                            kCheckpointFormat));
  ranks_ = value_at<int>(json, "ranks", where);
  tensors_ = tensors_from(value_at<nlohmann::json>(json, "tensors", where), where);
  optimizers_ = value_at<nlohmann::json>(json, "optimizers", where);
}

const StoredTensor& CheckpointFiles::stored(const std::string& name) const {
  if (auto found = tensors_.find(name); found != tensors_.end()) return found->second;
  throw Error(fmt::format("{}: there is no tensor '{}'; it is of another module", index_.string(), name));
}

void CheckpointFiles::check(const NamedTensor& to) {
  auto& tensor = stored(to.name);
  const auto sizes = sizes_of(to);
  const auto* dtype = c10::toString(to.tensor.scalar_type());
  if (tensor.sizes != sizes || tensor.dtype != dtype)
    throw Error(fmt::format("{}: '{}' is {}[{}], and {}[{}] is wanted", index_.string(), to.name,
                            tensor.dtype, fmt::join(tensor.sizes, ", "), dtype, fmt::join(sizes, ", ")));
  const bool is_part = to.shard && lies_as(tensor, to);
  const auto begin = is_part ? to.shard->begin : 0,
             end = is_part ? begin + to.tensor.numel() : tensor.numel();
  for (auto& chunk : tensor.chunks)
    if (chunk.begin < end && chunk.begin + chunk.count > begin) elements(to.name, chunk);
}

/// The elements of a chunk, flat.
at::Tensor CheckpointFiles::elements(const std::string& name, const StoredTensor::Chunk& chunk) {
  const auto path = folder_ / checkpoint_file(chunk.rank, ranks_);
  auto [file, is_new] = files_.try_emplace(chunk.rank);
  if (is_new) file->second = read_safetensors(path);
  auto found = file->second.find(name);
  if (found == file->second.end())
    throw Error(
        fmt::format("{}: there is no tensor '{}', which the index says is there", path.string(), name));
  auto& [dtype, sizes, strides, chunks] = stored(name);
  if (found->second.numel() != chunk.count || c10::toString(found->second.scalar_type()) != dtype)
    throw Error(
        fmt::format("{}: '{}' has {} elements of {}, but {} of {} by the index; files of several "
                    "checkpoints are mixed here",
                    path.string(), name, found->second.numel(), c10::toString(found->second.scalar_type()),
                    chunk.count, dtype));
  return found->second.flatten();
}

void CheckpointFiles::read_flat(const std::string& name, at::Tensor to, int64_t begin) {
  const auto end = begin + to.numel();
  for (auto& chunk : stored(name).chunks) {
    const auto from = std::max(begin, chunk.begin), until = std::min(end, chunk.begin + chunk.count);
    if (from >= until) continue;
    to.narrow(0, from - begin, until - from)
        .copy_(elements(name, chunk).narrow(0, from - chunk.begin, until - from));
  }
}

void CheckpointFiles::read(const NamedTensor& to) {
  auto& tensor = stored(to.name);
  auto values = to.tensor.detach();
  if (lies_as(tensor, to)) return read_flat(to.name, values.view({-1}), to.shard ? to.shard->begin : 0);

  auto memory = at::empty({tensor.numel()}, values.options().device(at::kCPU));
  read_flat(to.name, memory, 0);
  const auto whole = memory.as_strided(tensor.sizes, tensor.strides);
  if (!to.shard) {
    values.copy_(whole);
    return;
  }
  auto laid = at::empty_strided(tensor.sizes, to.shard->strides, memory.options()).copy_(whole);
  values.copy_(laid.as_strided({tensor.numel()}, {1}).narrow(0, to.shard->begin, values.numel()));
}

}  // namespace wanpar
