#include "strategy/sharded_params/flat_parameters.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <span>

#include "core/arguments.hpp"

namespace wanpar {
namespace {

/// Vector instructions and matrix kernels want their operands to begin at such addresses.
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t elements, int64_t width) {
  auto multiple = std::max<int64_t>(1, kAlignment / width);
  return (elements + multiple - 1) / multiple * multiple;
}

/// The leaves get a storage that holds nothing else, in the dtype that is computed with.
void move_out(Item& item, at::ScalarType dtype) {
  auto own = at::empty({item.size}, item.leaves[0].tensor.options().dtype(dtype).requires_grad(false));
  for (auto& leaf : item.leaves) {
    auto& tensor = leaf.tensor;
    tensor.set_data(own.as_strided(tensor.sizes(), tensor.strides(), leaf.offset));
  }
}

}  // namespace

at::Tensor elements_of(const at::Tensor& flat, int64_t begin, const at::Tensor& leaf) {
  auto sizes = leaf.sizes().vec();
  for (int64_t dim = 0; dim < leaf.dim(); ++dim)
    if (leaf.stride(dim) == 0) sizes[dim] = std::min<int64_t>(sizes[dim], 1);
  return flat.as_strided(sizes, leaf.strides(), flat.storage_offset() + begin);
}

FlatParameters::FlatParameters(std::vector<Item> items, Options options)
    : items_(std::move(items)), options_(std::move(options)) {
  auto dtype = items_[0].leaves[0].tensor.scalar_type();
  auto width = static_cast<int64_t>(c10::elementSize(options_.compute));
  int64_t end = 0;
  bool is_trained = false;
  for (auto& item : items_) {
    item.begin = end;
    end += aligned(item.size, width);
    for (auto& leaf : item.leaves) is_trained |= leaf.tensor.requires_grad();
  }
  sizes_ = even_sizes(end, options_.group.size());

  shard_ = piece(options_.group.rank());
  if (options_.take_from_rank_0) {
    std::vector<Send> sends;
    std::vector<Receive> receives;
    if (options_.group.rank() > 0)
      receives.push_back({{sizes_[options_.group.rank()]}, shard_.options(), 0});
    else
      for (int rank = 1; rank < options_.group.size(); ++rank) sends.push_back({piece(rank), rank});
    auto received = options_.group.exchange(std::move(sends), std::move(receives)).get();
    if (!received.empty()) shard_ = received[0];
    for (auto& alike : options_.alike) shard_ = alike.broadcast(std::move(shard_)).get();
  }
  shard_.set_requires_grad(is_trained);

  for (auto& item : items_) {
    item.values.reset();
    if (item.moves || dtype != options_.compute) move_out(item, options_.compute);
  }
}

/// What a rank is to hold, of the values that the module came with.
at::Tensor FlatParameters::piece(int rank) const {
  auto part = at::zeros({sizes_[rank]}, items_[0].leaves[0].tensor.options().requires_grad(false));
  auto begin = total(std::span(sizes_).first(rank));
  for (auto& item : items_) {
    auto from = std::max(begin, item.begin), to = std::min(begin + sizes_[rank], item.begin + item.size);
    if (from >= to || !item.values.defined()) continue;
    part.narrow(0, from - begin, to - from).copy_(item.values.narrow(0, from - item.begin, to - from));
  }
  return part;
}

std::vector<StoragePlace> FlatParameters::places(size_t buffer) const {
  std::vector<StoragePlace> places;
  auto width = static_cast<int64_t>(c10::elementSize(options_.compute));
  for (auto& item : items_)
    if (item.size > 0)
      places.push_back({item.leaves[0].tensor, buffer, item.begin * width, item.size * width});
  return places;
}

bool FlatParameters::is_whole() const {
  return options_.group.size() == 1 && shard_.scalar_type() == options_.compute;
}

Pending<at::Tensor> FlatParameters::gather() const {
  return options_.group.all_gather(shard_.detach().to(options_.compute), 0, sizes_);
}

at::Tensor FlatParameters::gather_values() const {
  return options_.group.all_gather(shard_.detach(), 0, sizes_).get();
}

void FlatParameters::each_leaf(
    const std::function<void(size_t index, const at::Tensor& leaf, int64_t begin)>& action) const {
  size_t index = 0;
  for (auto& item : items_)
    for (auto& leaf : item.leaves) action(index++, leaf.tensor, item.begin + leaf.offset);
}

bool FlatParameters::has_gradients() const {
  bool found = false;
  each_leaf([&](size_t, auto& leaf, int64_t) { found |= leaf.grad().defined(); });
  return found;
}

std::vector<at::Tensor> FlatParameters::take_gradients() {
  std::vector<at::Tensor> gradients;
  each_leaf(
      [&](size_t, auto& leaf, int64_t) { gradients.push_back(std::exchange(leaf.mutable_grad(), {})); });
  return gradients;
}

void FlatParameters::put_gradients(std::vector<at::Tensor> gradients) {
  each_leaf([&](size_t i, auto& leaf, int64_t) {
    leaf.mutable_grad() = i < gradients.size() ? std::move(gradients[i]) : at::Tensor();
  });
}

Pending<at::Tensor> FlatParameters::reduce(const std::vector<std::vector<at::Tensor>>& lists) const {
  auto dtype = options_.reduce.value_or(options_.compute);
  auto whole =
      at::zeros({total(sizes_)}, items_[0].leaves[0].tensor.options().dtype(dtype).requires_grad(false));
  each_leaf([&](size_t i, auto& leaf, int64_t begin) {
    for (auto& gradients : lists) {
      auto gradient = gradients[i];
      if (!gradient.defined()) continue;
      if (gradient.is_sparse()) gradient = gradient.to_dense();
      auto place = elements_of(whole, begin, leaf);
      place.add_(gradient.sum_to_size(place.sizes()));
    }
  });
  return options_.group.reduce_scatter(std::move(whole), 0, sizes_, ReduceOp::mean);
}

void FlatParameters::accumulate(at::Tensor gradient) {
  gradient = gradient.to(shard_.scalar_type());
  auto& sum = shard_.mutable_grad();
  if (sum.defined())
    sum.add_(gradient);
  else
    sum = gradient.variable_data();  // optimizers detach it in place, which a view refuses
}

std::pair<int64_t, int64_t> FlatParameters::own(const Item& item) const {
  auto begin = begin_of_shard(), end = begin + sizes_[options_.group.rank()];
  auto from = std::max(begin, item.begin), to = std::min(end, item.begin + item.size);
  return {from - item.begin, std::max<int64_t>(0, to - from)};
}

at::Tensor FlatParameters::own_gradient(const Item& item) const {
  auto [from, count] = own(item);
  if (count == 0 || !shard_.grad().defined()) return {};
  return shard_.grad().narrow(0, item.begin + from - begin_of_shard(), count);
}

void FlatParameters::set(const Item& item, const at::Tensor& values, int64_t from) {
  shard_.narrow(0, item.begin + from - begin_of_shard(), values.numel()).copy_(values);
}

int64_t FlatParameters::begin_of_shard() const {
  return total(std::span(sizes_).first(options_.group.rank()));
}

}  // namespace wanpar
