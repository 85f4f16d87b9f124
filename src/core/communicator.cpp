#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <atomic>
#include <wanpar/core/communicator.hpp>

#include "core/arguments.hpp"
#include "core/flat.hpp"
#include "core/packing.hpp"

namespace wanpar {

/// This rank's counters in a group, shared by copies with other labels.
struct Counts {
  std::atomic<uint64_t> collectives = 0, failures = 0, disturbances = 0, forwards = 0;
  std::atomic<int> forwards_at_hand = 0;
};

struct Communicator::Group {
  std::shared_ptr<Transport> transport;  // null in a group of one
  std::chrono::milliseconds timeout;
  std::string about = {};
  std::shared_ptr<Counts> counts = std::make_shared<Counts>();
  std::shared_ptr<detail::Health> health = std::make_shared<detail::Health>();
};

std::vector<int64_t> even_sizes(int64_t n, int64_t parts) {
  std::vector<int64_t> sizes(parts, n / parts);
  for (int64_t i = 0; i < n % parts; ++i) ++sizes[i];
  return sizes;
}

Communicator::Communicator() : group_(std::make_shared<Group>()) {
  group_->timeout = std::chrono::seconds(60);
}

Communicator::Communicator(std::shared_ptr<Transport> transport, std::chrono::milliseconds timeout)
    : Communicator() {
  group_->transport = transport->size() > 1 ? std::move(transport) : nullptr;
  group_->timeout = timeout;
}

int Communicator::rank() const { return group_->transport ? group_->transport->rank() : 0; }
int Communicator::size() const { return group_->transport ? group_->transport->size() : 1; }
std::chrono::milliseconds Communicator::timeout() const { return group_->timeout; }
at::Device Communicator::device() const { return transport() ? home(*transport()) : at::Device(at::kCPU); }
const std::shared_ptr<Transport>& Communicator::transport() const { return group_->transport; }

Communicator Communicator::with_timeout(std::chrono::milliseconds timeout) const {
  auto other = *this;
  other.group_ = std::make_shared<Group>(*group_);
  other.group_->timeout = timeout;
  return other;
}

Communicator Communicator::about(std::string what) const {
  auto other = *this;
  other.group_ = std::make_shared<Group>(*group_);
  other.group_->about = std::move(what);
  return other;
}

Call Communicator::call(Operation operation, at::ScalarType dtype, std::vector<int64_t> shape,
                        Site site) const {
  group_->health->check();
  Call call;
  call.operation = operation;
  call.dtype = dtype;
  call.shape = std::move(shape);
  call.rank = rank();
  call.size = size();
  call.timeout = group_->timeout;
  call.site = site;
  call.about = group_->about;
  call.forward = group_->counts->forwards;
  bool of_all = operation != Operation::exchange && operation != Operation::subgroup;
  if (of_all) call.sequence = group_->counts->collectives + 1;
  return call;
}

template <class T>
Pending<T> Communicator::pending(std::shared_ptr<Work> work, std::function<T()> finish) const {
  return Pending<T>(std::move(work), std::move(finish), group_->health);
}

/// The op to reduce a dtype with: a sum of bools is a logical or.
ReduceOp as_numbers(ReduceOp op, at::ScalarType dtype) {
  if (dtype != at::kBool) return op;
  return op == ReduceOp::sum ? ReduceOp::max : op == ReduceOp::product ? ReduceOp::min : op;
}

/// Starts a call in the transport. A call counts only once it has started, so that ranks number the next one
/// alike.
template <class Begin>
std::shared_ptr<Work> Communicator::begun(const Call& call, const Begin& begin) const {
  try {
    auto work = begin();
    if (call.sequence > 0) group_->counts->collectives = call.sequence;
    return work;
  } catch (...) {
    ++group_->counts->disturbances;
    throw;
  }
}

Pending<at::Tensor> Communicator::all_reduce(at::Tensor x, ReduceOp op, Site site) const {
  auto call = this->call(Operation::all_reduce, x.scalar_type(), x.sizes().vec(), site);
  call.reduce = op;
  check_tensor(x, transport().get(), call);
  check_reducible(call);
  call.reduce = as_numbers(op, call.dtype);
  if (size() == 1) return pending<at::Tensor>(nullptr, [x = std::move(x)] { return x; });

  at::NoGradGuard no_grad;
  auto shape = x.sizes().vec();
  auto dtype = x.scalar_type();
  auto in = as_reducible(private_flat(std::move(x)));
  auto out = at::empty_like(in);
  auto work = begun(call, [&] { return transport()->all_reduce(out, in, call); });
  return pending<at::Tensor>(std::move(work), [=] {
    at::NoGradGuard no_grad;
    return from_reducible(out, dtype).view(shape);
  });
}

Pending<at::Tensor> Communicator::all_gather(at::Tensor x, int64_t dim, std::span<const int64_t> sizes,
                                             Site site) const {
  auto call = this->call(Operation::all_gather, x.scalar_type(), x.sizes().vec(), site);
  check_tensor(x, transport().get(), call);
  dim = check_dim(dim, x, call);
  auto extents = concat_extents(x, dim, sizes, call);
  call.shape[dim] = total(extents);
  if (!sizes.empty()) call.sizes = extents;
  if (size() == 1) return pending<at::Tensor>(nullptr, [x = std::move(x)] { return x; });

  at::NoGradGuard no_grad;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<int64_t> counts;
  for (auto extent : extents) {
    shapes.push_back(with_extent(x.sizes(), dim, extent));
    counts.push_back(volume(shapes.back()) * static_cast<int64_t>(x.element_size()));
  }
  auto out = at::empty({volume(call.shape)}, x.options());
  auto whole = call.shape;
  // Sent from its final position in the result, so no other copy is needed.
  auto place = bytes(out).split_with_sizes(counts)[rank()];
  if (x.numel() > 0) place.copy_(bytes(x.resolve_conj().resolve_neg().contiguous().view({-1})));
  auto work = begun(call, [&] { return transport()->all_gather(bytes(out), place, counts, call); });
  return pending<at::Tensor>(std::move(work), [=] {
    at::NoGradGuard no_grad;
    bool in_order = volume(at::IntArrayRef(whole).slice(0, dim)) == 1;
    return in_order ? out.view(whole) : join(out, shapes, dim);
  });
}

Pending<at::Tensor> Communicator::reduce_scatter(at::Tensor x, int64_t dim, std::span<const int64_t> sizes,
                                                 ReduceOp op, Site site) const {
  auto call = this->call(Operation::reduce_scatter, x.scalar_type(), x.sizes().vec(), site);
  call.reduce = op;
  check_tensor(x, transport().get(), call);
  check_reducible(call);
  call.reduce = as_numbers(op, call.dtype);
  dim = check_dim(dim, x, call);
  auto extents = split_extents(x, dim, sizes, call);
  if (!sizes.empty()) call.sizes = extents;
  if (size() == 1) return pending<at::Tensor>(nullptr, [x = std::move(x)] { return x; });

  at::NoGradGuard no_grad;
  auto dtype = x.scalar_type();
  auto shape = with_extent(x.sizes(), dim, extents[rank()]);
  auto numbers = x.is_complex() ? 2 : 1;
  auto counts = times(extents, volume(with_extent(x.sizes(), dim, 1)) * numbers);
  auto in = as_reducible(pack(std::move(x), dim, extents));
  auto out = at::empty({volume(shape) * numbers}, in.options());
  auto work = begun(call, [&] { return transport()->reduce_scatter(out, in, counts, call); });
  return pending<at::Tensor>(std::move(work), [=] {
    at::NoGradGuard no_grad;
    return from_reducible(out, dtype).view(shape);
  });
}

Pending<at::Tensor> Communicator::all_to_all(at::Tensor x, int64_t split_dim, int64_t concat_dim,
                                             std::span<const int64_t> split_sizes,
                                             std::span<const int64_t> concat_sizes, Site site) const {
  auto call = this->call(Operation::all_to_all, x.scalar_type(), x.sizes().vec(), site);
  check_tensor(x, transport().get(), call);
  split_dim = check_dim(split_dim, x, call);
  concat_dim = check_dim(concat_dim, x, call);
  if (split_dim == concat_dim)
    throw UsageError(where(call) +
                     ": the dimension that is split must differ from the one that is concatenated");
  auto splits = split_extents(x, split_dim, split_sizes, call);
  auto concats = concat_extents(x, concat_dim, concat_sizes, call);
  call.shape[concat_dim] = total(concats);
  if (!split_sizes.empty() || !concat_sizes.empty()) {
    call.sizes = splits;
    call.sizes.insert(call.sizes.end(), concats.begin(), concats.end());
  }
  if (size() == 1) return pending<at::Tensor>(nullptr, [x = std::move(x)] { return x; });

  at::NoGradGuard no_grad;
  auto width = static_cast<int64_t>(x.element_size());
  auto in_counts = times(splits, volume(with_extent(x.sizes(), split_dim, 1)) * width);
  std::vector<std::vector<int64_t>> shapes;
  std::vector<int64_t> out_counts;
  for (auto extent : concats) {
    shapes.push_back(with_extent(with_extent(x.sizes(), split_dim, splits[rank()]), concat_dim, extent));
    out_counts.push_back(volume(shapes.back()) * width);
  }
  auto out = at::empty({total(out_counts) / width}, x.options());
  auto in = pack(std::move(x), split_dim, splits);
  auto work = begun(
      call, [&] { return transport()->all_to_all(bytes(out), bytes(in), out_counts, in_counts, call); });
  return pending<at::Tensor>(std::move(work), [=] {
    at::NoGradGuard no_grad;
    return join(out, shapes, concat_dim);
  });
}

Pending<at::Tensor> Communicator::all_to_all_packed(at::Tensor x, std::span<const int64_t> send,
                                                    std::span<const int64_t> receive, Site site) const {
  auto call = this->call(Operation::all_to_all, x.scalar_type(), {}, site);
  check_tensor(x, transport().get(), call);
  check_sizes(send, call);
  check_sizes(receive, call);
  if (x.dim() != 1 || total(send) != x.numel())
    throw UsageError(fmt::format("{}: the counts to send {} do not make up the flat tensor {}", where(call),
                                 send, x.sizes()));
  if (size() == 1) return pending<at::Tensor>(nullptr, [x = std::move(x)] { return x; });

  at::NoGradGuard no_grad;
  auto width = static_cast<int64_t>(x.element_size());
  auto out = at::empty({total(receive)}, x.options());
  auto in = private_flat(std::move(x));
  auto work = begun(call, [&] {
    return transport()->all_to_all(bytes(out), bytes(in), times(receive, width), times(send, width), call);
  });
  return pending<at::Tensor>(std::move(work), [out] { return out; });
}

Pending<at::Tensor> Communicator::broadcast(at::Tensor x, int root, Site site) const {
  auto call = this->call(Operation::broadcast, x.scalar_type(), x.sizes().vec(), site);
  call.root = root;
  check_tensor(x, transport().get(), call);
  if (root < 0 || root >= size()) throw UsageError(fmt::format("{}: there is no rank {}", where(call), root));
  if (size() == 1) return pending<at::Tensor>(nullptr, [x = std::move(x)] { return x; });

  at::NoGradGuard no_grad;
  auto shape = x.sizes().vec();
  auto flat = root == rank() ? private_flat(std::move(x)) : at::empty({x.numel()}, x.options());
  auto work = begun(call, [&] { return transport()->broadcast(bytes(flat), call); });
  return pending<at::Tensor>(std::move(work), [=] { return flat.view(shape); });
}

Pending<std::vector<at::Tensor>> Communicator::exchange(std::vector<Send> sends,
                                                        std::vector<Receive> receives, Site site) const {
  auto dtype = !sends.empty()      ? sends[0].tensor.scalar_type()
               : !receives.empty() ? c10::typeMetaToScalarType(receives[0].options.dtype())
                                   : at::kByte;
  auto call = this->call(Operation::exchange, dtype, {}, site);
  auto check_peer = [&](int peer) {
    if (peer < 0 || peer >= size())
      throw UsageError(fmt::format("{}: there is no rank {}", where(call), peer));
    if (peer == rank())
      throw UsageError(where(call) + ": a rank cannot send to itself or receive from itself");
  };

  at::NoGradGuard no_grad;
  std::vector<Message> out, in;
  for (auto& [tensor, to] : sends) {
    check_peer(to);
    check_tensor(tensor, transport().get(), call);
    auto dtype = tensor.scalar_type();
    auto shape = tensor.sizes().vec();
    out.push_back({bytes(private_flat(std::move(tensor))), to, dtype, std::move(shape)});
  }
  std::vector<at::Tensor> results;
  for (auto& [shape, options, from] : receives) {
    check_peer(from);
    results.push_back(at::empty(shape, options));
    check_tensor(results.back(), transport().get(), call);
    in.push_back({bytes(results.back().view({-1})), from, results.back().scalar_type(), shape});
  }
  std::shared_ptr<Work> work;
  if (size() > 1)
    work = begun(call, [&] { return transport()->exchange(std::move(out), std::move(in), call); });
  return pending<std::vector<at::Tensor>>(std::move(work), [results] { return results; });
}

void Communicator::barrier(Site site) const {
  auto call = this->call(Operation::barrier, at::kByte, {}, site);
  if (size() > 1) begun(call, [&] { return transport()->barrier(call); })->wait();
}

void Communicator::fail(const std::string& why, Site site) const {
  ++group_->counts->failures;
  ++group_->counts->disturbances;
  if (size() == 1) return;
  try {
    transport()->fail(why, call(Operation::exchange, at::kByte, {}, site));
  } catch (...) {
    group_->health->keep(std::current_exception());
  }
}

std::shared_ptr<void> Communicator::forward() const {
  if (size() == 1) return {};
  auto& counts = group_->counts;
  if (counts->forwards_at_hand++ == 0) ++counts->forwards;
  return {nullptr, [counts](void*) { --counts->forwards_at_hand; }};
}

uint64_t Communicator::failures() const { return group_->counts->failures; }
uint64_t Communicator::disturbances() const { return group_->counts->disturbances; }

Communicator Communicator::split(int64_t colour, int64_t key, Site site) const {
  if (size() == 1) return {};
  auto mine = at::tensor({colour, key}, at::kLong).to(device());
  auto all = all_gather(mine, 0, {}, site).get().view({size(), 2}).cpu();

  std::vector<int> members;
  for (int r = 0; r < size(); ++r)
    if (all[r][0].item<int64_t>() == colour) members.push_back(r);
  std::stable_sort(members.begin(), members.end(),
                   [&](int a, int b) { return all[a][1].item<int64_t>() < all[b][1].item<int64_t>(); });
  return subgroup(members, site);
}

Communicator Communicator::subgroup(std::span<const int> members, Site site) const {
  auto call = this->call(Operation::subgroup, at::kByte, {}, site);
  call.about = fmt::format("ranks {}", members);
  bool member = false;
  for (auto r : members) {
    if (r < 0 || r >= size())
      throw UsageError(fmt::format("subgroup {} of a group of {}: there is no rank {}", members, size(), r));
    if (std::count(members.begin(), members.end(), r) > 1)
      throw UsageError(fmt::format("subgroup {}: rank {} stands there twice", members, r));
    member |= r == rank();
  }
  if (!member)
    throw UsageError(fmt::format("subgroup {}: rank {} calls it, but is no member", members, rank()));
  if (members.size() == 1) return Communicator().with_timeout(timeout());
  return Communicator(transport()->split(members, call), timeout());
}

}  // namespace wanpar
