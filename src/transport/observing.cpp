#include "transport/observing.hpp"

#include "core/flat.hpp"

namespace wanpar {
namespace {

int64_t nbytes(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

/// What the work has sent or, where it cannot tell, what the operation takes at least.
auto sent_or(int64_t least) {
  return [least](const Work& work) { return work.sent().value_or(least); };
}

}  // namespace

std::shared_ptr<Work> Observing::all_reduce(at::Tensor out, at::Tensor in, const Call& call) {
  auto least = 2 * (size() - 1) * nbytes(in) / size();
  return seen(
      call, [&] { return inner_->all_reduce(out, in, call); }, sent_or(least));
}

std::shared_ptr<Work> Observing::all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                            const Call& call) {
  auto least = (size() - 1) * nbytes(in);
  return seen(
      call, [&] { return inner_->all_gather(out, in, counts, call); }, sent_or(least));
}

std::shared_ptr<Work> Observing::reduce_scatter(at::Tensor out, at::Tensor in,
                                                std::span<const int64_t> counts, const Call& call) {
  auto least = nbytes(in) - nbytes(out);
  return seen(
      call, [&] { return inner_->reduce_scatter(out, in, counts, call); }, sent_or(least));
}

std::shared_ptr<Work> Observing::all_to_all(at::Tensor out, at::Tensor in,
                                            std::span<const int64_t> out_counts,
                                            std::span<const int64_t> in_counts, const Call& call) {
  auto least = nbytes(in) - in_counts[rank()];
  return seen(
      call, [&] { return inner_->all_to_all(out, in, out_counts, in_counts, call); }, sent_or(least));
}

std::shared_ptr<Work> Observing::broadcast(at::Tensor tensor, const Call& call) {
  auto least = call.root == rank() ? (size() - 1) * nbytes(tensor) : 0;
  return seen(
      call, [&] { return inner_->broadcast(tensor, call); }, sent_or(least));
}

std::shared_ptr<Work> Observing::exchange(std::vector<Message> sends, std::vector<Message> receives,
                                          const Call& call) {
  auto least = payload(sends);
  auto begin = [&] { return inner_->exchange(std::move(sends), std::move(receives), call); };
  return seen(call, begin, sent_or(least));
}

std::shared_ptr<Work> Observing::barrier(const Call& call) {
  return seen(
      call, [&] { return inner_->barrier(call); }, [](const Work&) -> int64_t { return 0; });
}

}  // namespace wanpar
