#include "strategy/block_pipeline/pipeline_boundary.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace {

/// A boundary as it is sent: 1 KiB, whatever it says.
struct Record {
  static constexpr size_t kMostDims = 16, kBytes = 1024;

  int64_t dims = 0, dtype = 0, requires_grad = 0;
  int64_t shape[kMostDims] = {};
  char failure[kBytes - (3 + kMostDims) * sizeof(int64_t)] = {};
};
static_assert(sizeof(Record) == Record::kBytes);

}  // namespace

Boundary Boundary::of(const at::Tensor& x) {
  if (x.dim() > static_cast<int64_t>(Record::kMostDims))
    throw Error(fmt::format(
        "BlockPipeline: a block gives {}, of more than 16 dimensions; flatten some of them in the block",
        x.sizes()));
  return {x.scalar_type(), x.requires_grad(), x.sizes().vec()};
}

Boundary announce(const Communicator& group, int root, const Boundary& mine, const std::string& failure) {
  Record record;
  record.dims = static_cast<int64_t>(mine.shape.size());
  record.dtype = static_cast<int64_t>(mine.dtype);
  record.requires_grad = mine.requires_grad;
  std::copy(mine.shape.begin(), mine.shape.end(), record.shape);
  failure.copy(record.failure, sizeof(record.failure) - 1);

  auto packed = at::empty({static_cast<int64_t>(sizeof(record))}, at::kByte);
  std::memcpy(packed.data_ptr(), &record, sizeof(record));
  auto came = group.broadcast(packed.to(group.device()), root).get().cpu();
  std::memcpy(&record, came.data_ptr(), sizeof(record));
  if (record.failure[0] != 0) throw Error(record.failure);
  return {static_cast<at::ScalarType>(record.dtype),
          record.requires_grad != 0,
          {record.shape, record.shape + record.dims}};
}

}  // namespace wanpar
