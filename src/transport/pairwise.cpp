#include <wanpar/extend/transport/pairwise.hpp>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <functional>

#include "core/flat.hpp"

namespace wanpar {
namespace {

std::vector<at::Tensor> cut(const at::Tensor& flat, std::span<const int64_t> counts) {
  return flat.split_with_sizes(at::IntArrayRef(counts.data(), counts.size()));
}

/// The contributions in rank order; half types add up in float32 and are rounded once.
void reduce_into(at::Tensor out, const std::vector<at::Tensor>& contributions, ReduceOp op) {
  at::NoGradGuard no_grad;
  bool half = out.scalar_type() == at::kHalf || out.scalar_type() == at::kBFloat16;
  auto total = half ? contributions[0].to(at::kFloat) : contributions[0].clone();
  for (size_t i = 1; i < contributions.size(); ++i) {
    auto& next = contributions[i];
    switch (op) {
      case ReduceOp::sum:
      case ReduceOp::mean:
        total.add_(next);
        break;
      case ReduceOp::product:
        total.mul_(next);
        break;
      case ReduceOp::min:
        at::minimum_out(total, total, next.to(total.scalar_type()));
        break;
      case ReduceOp::max:
        at::maximum_out(total, total, next.to(total.scalar_type()));
        break;
    }
  }
  if (op == ReduceOp::mean) total.div_(static_cast<double>(contributions.size()));
  out.copy_(total);
}

}  // namespace

std::shared_ptr<Work> Pairwise::all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                           std::span<const int64_t> in_counts, const Call& call) {
  auto to = cut(in, in_counts), from = cut(out, out_counts);
  std::vector<Message> sends, receives;
  for (int step = 1; step < size(); ++step) {  // every rank begins with another peer
    int next = (rank() + step) % size(), previous = (rank() + size() - step) % size();
    sends.push_back({to[next], next});
    receives.push_back({from[previous], previous});
  }
  from[rank()].copy_(to[rank()]);
  return exchange(std::move(sends), std::move(receives), call);
}

std::shared_ptr<Work> Pairwise::all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                           const Call& call) {
  auto from = cut(out, counts);
  std::vector<Message> sends, receives;
  for (int step = 1; step < size(); ++step) {
    int next = (rank() + step) % size(), previous = (rank() + size() - step) % size();
    sends.push_back({in, next});
    receives.push_back({from[previous], previous});
  }
  return exchange(std::move(sends), std::move(receives), call);
}

std::shared_ptr<Work> Pairwise::reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                               const Call& call) {
  auto pieces = cut(in, counts);
  std::vector<at::Tensor> contributions(size());
  std::vector<Message> sends, receives;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) {
      contributions[peer] = pieces[peer];
      continue;
    }
    contributions[peer] = at::empty_like(out);
    sends.push_back({bytes(pieces[peer]), peer});
    receives.push_back({bytes(contributions[peer]), peer});
  }
  auto work = exchange(std::move(sends), std::move(receives), call);
  return std::make_shared<ThenWork>(
      std::move(work), [out, contributions, op = call.reduce] { reduce_into(out, contributions, op); });
}

std::shared_ptr<Work> Pairwise::broadcast(at::Tensor tensor, const Call& call) {
  std::vector<Message> sends, receives;
  for (int peer = 0; peer < size(); ++peer)
    if (rank() == call.root && peer != rank()) sends.push_back({tensor, peer});
  if (rank() != call.root) receives.push_back({tensor, call.root});
  return exchange(std::move(sends), std::move(receives), call);
}

std::shared_ptr<Work> Pairwise::barrier(const Call& call) {
  std::vector<Message> sends, receives;
  auto options = at::TensorOptions(at::kByte).device(home(*this));
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    sends.push_back({at::zeros({1}, options), peer});
    receives.push_back({at::empty({1}, options), peer});
  }
  return exchange(std::move(sends), std::move(receives), call);
}

}  // namespace wanpar
