#include "strategy/sharded_params/flat_parameters.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/strides.h>

#include <algorithm>
#include <span>

#include "core/arguments.hpp"
#include "module/absent_memory.hpp"
#include "module/shard_tensor.hpp"
#include "module/storage_memory.hpp"

namespace wanpar {
namespace {

/// The alignment for vector instructions and matrix kernels.
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t elements, int64_t width) {
  auto multiple = std::max<int64_t>(1, kAlignment / width);
  return (elements + multiple - 1) / multiple * multiple;
}

/// Moves the leaves to a storage of their own, in the dtype of computation.
void move_out(Item& item, at::ScalarType dtype) {
  auto own = at::empty({item.size}, item.leaves[0].tensor.options().dtype(dtype).requires_grad(false));
  for (auto& leaf : item.leaves) {
    auto& tensor = leaf.tensor;
    tensor.set_data(own.as_strided(tensor.sizes(), tensor.strides(), leaf.offset));
  }
}

/// The metadata of an item's shard. Parameters that share memory, or leave gaps in it, are one flat tensor.
ShardMetadata metadata_of_shard(const Item& item, int64_t begin) {
  auto& tensor = item.leaves[0].tensor;
  bool fills =
      item.leaves.size() == 1 && tensor.numel() == item.size && tensor.is_non_overlapping_and_dense();
  if (!fills) return {{item.size}, {1}, begin};
  auto strides =
      c10::contiguous_strides(tensor.sizes());  // canonical strides, whatever those of size-1 dimensions are
  if (!tensor.is_contiguous()) return {tensor.sizes().vec(), tensor.strides().vec(), begin};
  return {tensor.sizes().vec(), {strides.begin(), strides.end()}, begin};
}

/// The memory of an item, flat.
at::Tensor memory_of(const Item& item) {
  auto& first = item.leaves[0];
  return first.tensor.detach().as_strided({item.size}, {1}, first.tensor.storage_offset() - first.offset);
}

}  // namespace

at::Tensor elements_of(const at::Tensor& flat, int64_t begin, const at::Tensor& leaf) {
  auto sizes = leaf.sizes().vec();
  for (int64_t dim = 0; dim < leaf.dim(); ++dim)
    if (leaf.stride(dim) == 0) sizes[dim] = std::min<int64_t>(sizes[dim], 1);
  return flat.as_strided(sizes, leaf.strides(), flat.storage_offset() + begin);
}

FlatParameters::FlatParameters(std::vector<Item> items, Options options)
    : items_(std::move(items)),
      options_(std::move(options)),
      dtype_(items_[0].leaves[0].tensor.scalar_type()) {
  auto width = static_cast<int64_t>(c10::elementSize(options_.compute));
  int64_t end = 0;
  for (auto& item : items_) {
    item.begin = end;
    end += aligned(item.size, width);
    for (auto& leaf : item.leaves) leaf.gradient_begin = item.begin + leaf.offset;
  }
  sizes_ = even_sizes(end, options_.group.size());
  gradient_size_ = end;
  if (is_unsharded())
    keep_memory();
  else
    share_memory();
  for (auto& item : items_) item.values.reset();
}

/// Unsharded: the optimizer steps the module's own parameters. Those that share memory have separate
/// gradients.
void FlatParameters::keep_memory() {
  gradient_size_ = 0;
  for (auto& item : items_) {
    if (!item.values.defined()) move_out(item, dtype_);
    for (auto& leaf : item.leaves) {
      leaf.gradient_begin = std::exchange(gradient_size_, gradient_size_ + leaf.tensor.numel());
      leaf.shard = shards_.size();
      shards_.push_back({leaf.names, leaf.tensor});
    }
  }
  if (!options_.take_from_rank_0) return;
  const auto values = from_rank_0();
  for (auto& item : items_) memory_of(item).copy_(values.narrow(0, item.begin, item.size));
}

/// Sharded: the optimizer steps this rank's shard of the flat parameter, of which the module's memory is a
/// copy.
void FlatParameters::share_memory() {
  flat_ = options_.take_from_rank_0 ? from_rank_0() : piece(options_.group.rank());
  for (auto& item : items_) {
    const auto [from, count] = own(item);
    auto mine =
        shard_of(flat_.narrow(0, count == 0 ? 0 : item.begin + from - begin_of_shard(), count).detach(),
                 options_.group);
    for (auto& leaf : item.leaves) {
      leaf.shard = shards_.size();
      leaf.was_trained = leaf.tensor.requires_grad();
      if (leaf.was_trained) mine.set_requires_grad(true);
    }
    auto metadata = std::make_shared<ShardMetadata>(metadata_of_shard(item, count == 0 ? 0 : from));
    shards_.push_back({item.leaves[0].names, mine, std::move(metadata)});
    if (item.moves || dtype_ != options_.compute) move_out(item, options_.compute);
    for (auto& leaf : item.leaves) watch(leaf.tensor);
  }
}

/// This rank's shard of rank 0's values.
at::Tensor FlatParameters::from_rank_0() const {
  auto mine = piece(options_.group.rank());
  std::vector<Send> sends;
  std::vector<Receive> receives;
  if (options_.group.rank() > 0)
    receives.push_back({{sizes_[options_.group.rank()]}, mine.options(), 0});
  else
    for (int rank = 1; rank < options_.group.size(); ++rank) sends.push_back({piece(rank), rank});
  auto received = options_.group.exchange(std::move(sends), std::move(receives)).get();
  if (!received.empty()) mine = received[0];
  for (auto& alike : options_.alike) mine = alike.broadcast(std::move(mine)).get();
  return mine;
}

/// A rank's shard of the values that the module was constructed with.
at::Tensor FlatParameters::piece(int rank) const {
  auto part = at::zeros({sizes_[rank]}, options());
  auto begin = total(std::span(sizes_).first(rank));
  for (auto& item : items_) {
    auto from = std::max(begin, item.begin), to = std::min(begin + sizes_[rank], item.begin + item.size);
    if (from >= to || !item.values.defined()) continue;
    part.narrow(0, from - begin, to - from).copy_(item.values.narrow(0, from - item.begin, to - from));
  }
  return part;
}

std::vector<StorageSlice> FlatParameters::storages(size_t buffer) const {
  std::vector<StorageSlice> slices;
  auto width = static_cast<int64_t>(c10::elementSize(options_.compute));
  for (auto& item : items_)
    if (item.size > 0 && !is_unsharded())
      slices.push_back(
          {item.leaves[0].tensor, buffer, item.begin * width, item.size * width, item.leaves[0].names[0]});
  return slices;
}

bool FlatParameters::is_unsharded() const { return options_.group.size() == 1 && dtype_ == options_.compute; }

at::TensorOptions FlatParameters::options() const {
  return items_[0].leaves[0].tensor.options().dtype(dtype_).requires_grad(false);
}

int64_t FlatParameters::bytes() const {
  return sizes_[options_.group.rank()] * static_cast<int64_t>(c10::elementSize(dtype_));
}

int64_t FlatParameters::version() const {
  return is_unsharded() || flat_.is_inference() ? 0 : static_cast<int64_t>(flat_._version());
}

Pending<at::Tensor> FlatParameters::gather() const {
  return options_.group.all_gather(flat_.to(options_.compute), 0, sizes_);
}

void FlatParameters::each_value(
    const std::function<void(const Leaf& leaf, const at::Tensor& value)>& show) const {
  if (is_unsharded()) return each_leaf([&](size_t, auto& leaf) { show(leaf, leaf.tensor.detach()); });
  const auto whole = options_.group.all_gather(flat_, 0, sizes_).get();
  for (auto& item : items_)
    for (auto& leaf : item.leaves)
      show(leaf, whole.as_strided(leaf.tensor.sizes(), leaf.tensor.strides(),
                                  whole.storage_offset() + item.begin + leaf.offset));
}

void FlatParameters::write_back(const at::Tensor& gathered) {
  auto mine = gathered.narrow(0, begin_of_shard(), flat_.numel());
  // Values that were not written keep the precision that the dtype of computation lacks.
  auto is_written = mine.ne(flat_.to(mine.scalar_type()));
  flat_.copy_(at::where(is_written, mine.to(dtype_), flat_));
}

void FlatParameters::agree_on_training() {
  if (is_unsharded()) return;
  for (auto& item : items_)
    for (auto& leaf : item.leaves) {
      auto& shard = shards_[leaf.shard].tensor;
      bool is_trained = leaf.tensor.requires_grad();
      if (is_trained == leaf.was_trained) is_trained = shard.requires_grad();
      shard.set_requires_grad(is_trained);
      leaf.tensor.set_requires_grad(is_trained);
      leaf.was_trained = is_trained;
    }
}

bool FlatParameters::is_trained() const {
  bool is = false;
  each_leaf([&](size_t, auto& leaf) { is |= leaf.tensor.requires_grad(); });
  return is;
}

size_t FlatParameters::leaves() const {
  size_t count = 0;
  each_leaf([&](size_t, auto&) { ++count; });
  return count;
}

bool FlatParameters::has_gradients() const {
  bool found = false;
  each_leaf(
      [&](size_t, auto& leaf) { found |= leaf.tensor.grad().defined() && !is_stand_in(leaf.tensor.grad()); });
  return found;
}

std::vector<at::Tensor> FlatParameters::take_gradients() {
  std::vector<at::Tensor> gradients;
  each_leaf([&](size_t, auto& leaf) { gradients.push_back(std::exchange(leaf.tensor.mutable_grad(), {})); });
  return gradients;
}

void FlatParameters::put_gradients(std::vector<at::Tensor> gradients) {
  each_leaf([&](size_t i, auto& leaf) {
    leaf.tensor.mutable_grad() = i < gradients.size() ? std::move(gradients[i]) : at::Tensor();
  });
}

Pending<at::Tensor> FlatParameters::reduce(const std::vector<std::vector<at::Tensor>>& lists) const {
  auto dtype = options_.reduce.value_or(options_.compute);
  auto whole = at::zeros({gradient_size_}, options().dtype(dtype));
  each_leaf([&](size_t i, auto& leaf) {
    for (auto& gradients : lists) {
      auto gradient = gradients[i];
      if (!gradient.defined()) continue;
      if (gradient.is_sparse()) gradient = gradient.to_dense();
      auto slice = gradient_slice(whole, leaf);
      slice.add_(gradient.sum_to_size(slice.sizes()));
    }
  });
  if (is_unsharded()) return options_.group.reduce_scatter(std::move(whole), 0, {}, ReduceOp::mean);
  return options_.group.reduce_scatter(std::move(whole), 0, sizes_, ReduceOp::mean);
}

/// The slice of a leaf's gradient in the flat gradient.
at::Tensor FlatParameters::gradient_slice(const at::Tensor& flat, const Leaf& leaf) const {
  if (is_unsharded())
    return flat.narrow(0, leaf.gradient_begin, leaf.tensor.numel()).view(leaf.tensor.sizes());
  return elements_of(flat, leaf.gradient_begin, leaf.tensor);
}

void FlatParameters::accumulate(const at::Tensor& mean, const std::vector<bool>& had) {
  const auto gradients = mean.to(dtype_);
  if (is_unsharded())  // the previous gradient is part of the mean
    return each_leaf([&](size_t, auto& leaf) {
      if (had[leaf.shard]) leaf.tensor.mutable_grad() = gradient_slice(gradients, leaf).variable_data();
    });
  for (auto& item : items_) {
    const auto shard = item.leaves[0].shard;
    if (!had[shard]) continue;
    const auto [from, count] = own(item);
    auto mine = gradients.narrow(0, count == 0 ? 0 : item.begin + from - begin_of_shard(), count);
    auto& sum = shards_[shard].tensor.mutable_grad();
    if (sum.defined())
      sum.add_(mine);
    else
      sum = shard_of(mine.variable_data(),
                     options_.group);  // optimizers detach it in place, which views do not allow
  }
}

void FlatParameters::stand_in_for_gradients() {
  if (is_unsharded()) return;
  each_leaf([&](size_t, auto& leaf) {
    auto& shard = shards_[leaf.shard].tensor;
    if (!leaf.tensor.requires_grad() || !shard.grad().defined()) return;
    auto drop = [shard]() mutable { shard.mutable_grad().reset(); };
    leaf.tensor.mutable_grad() = stand_in_like(leaf.tensor, "the gradient of " + leaf.names[0], drop);
  });
}

void FlatParameters::drop_stand_ins() {
  each_leaf([&](size_t, auto& leaf) {
    if (is_stand_in(leaf.tensor.grad())) drop_stand_in(leaf.tensor.mutable_grad());
  });
}

std::pair<int64_t, int64_t> FlatParameters::own(const Item& item) const {
  auto begin = begin_of_shard(), end = begin + sizes_[options_.group.rank()];
  auto from = std::max(begin, item.begin), to = std::min(end, item.begin + item.size);
  return {from - item.begin, std::max<int64_t>(0, to - from)};
}

void FlatParameters::set(const Item& item, const at::Tensor& values, int64_t from) {
  flat_.narrow(0, item.begin + from - begin_of_shard(), values.numel()).copy_(values);
}

int64_t FlatParameters::begin_of_shard() const {
  return total(std::span(sizes_).first(options_.group.rank()));
}

}  // namespace wanpar
