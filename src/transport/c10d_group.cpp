#include "transport/c10d_group.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/core/error.hpp>

#include "core/flat.hpp"
#include "transport/c10d_quiet_log.hpp"
#include "transport/c10d_store.hpp"
#include "transport/deadline.hpp"

namespace wanpar {
namespace {

int next(int& tag) { return tag = (tag + 1) & 0x3fffffff; }

}  // namespace

c10d::ReduceOp reduce_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return c10d::ReduceOp::SUM;
    case ReduceOp::mean:
      return c10d::ReduceOp::AVG;
    case ReduceOp::product:
      return c10d::ReduceOp::PRODUCT;
    case ReduceOp::min:
      return c10d::ReduceOp::MIN;
    case ReduceOp::max:
      return c10d::ReduceOp::MAX;
  }
  throw UsageError("unknown reduce operation");
}

C10d::C10d(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend factory,
           std::shared_ptr<const Membership> membership, std::string device)
    : backend_(std::move(backend)),
      factory_(std::move(factory)),
      membership_(std::move(membership)),
      device_(std::move(device)) {
  sent_.resize(size());
  received_.resize(size());
}

std::shared_ptr<Work> C10d::all_reduce(at::Tensor out, at::Tensor in, const Call& call) {
  bool is_half = in.scalar_type() == at::kHalf || in.scalar_type() == at::kBFloat16;
  auto wide = in.is_cpu() && is_half ? in.to(at::kFloat) : out.copy_(in);
  bool divides = call.reduce == ReduceOp::mean && !has_mean();
  c10d::AllreduceOptions options;
  options.reduceOp = divides ? c10d::ReduceOp(c10d::ReduceOp::SUM) : reduce_op(call.reduce);
  options.timeout = limit(call);
  std::vector<at::Tensor> tensors{wide};
  auto turn = turn_to_start();
  auto work = one(wide, call, [&] { return backend_->allreduce(tensors, options); });
  if (!divides && wide.is_same(out)) return work;
  return std::make_shared<ThenWork>(work, [=, n = size()]() mutable {
    if (divides) wide.div_(n);
    if (!wide.is_same(out)) out.copy_(wide);
  });
}

std::shared_ptr<Work> C10d::broadcast(at::Tensor tensor, const Call& call) {
  c10d::BroadcastOptions options;
  options.rootRank = call.root;
  options.timeout = limit(call);
  std::vector<at::Tensor> tensors{tensor};
  auto turn = turn_to_start();
  return one(tensor, call, [&] { return backend_->broadcast(tensors, options); });
}

std::shared_ptr<Work> C10d::exchange(std::vector<Message> sends, std::vector<Message> receives,
                                     const Call& call) {
  membership_->begin(call);
  auto work = transfers(call, payload(sends));
  auto turn = turn_to_start();
  for (auto& message : receives) {  // receives first: what comes finds its place
    auto tag = next(received_[message.peer]);
    if (message.tensor.numel() == 0) continue;
    std::vector<at::Tensor> tensors{message.tensor};
    work->add(message.peer, message.tensor, [&] { return backend_->recv(tensors, message.peer, tag); });
  }
  for (auto& message : sends) {
    auto tag = next(sent_[message.peer]);
    if (message.tensor.numel() == 0) continue;
    std::vector<at::Tensor> tensors{message.tensor};
    work->add(message.peer, message.tensor, [&] { return backend_->send(tensors, message.peer, tag); });
  }
  return work;
}

std::shared_ptr<Transport> C10d::split(std::span<const int> members, const Call& call) {
  if (!factory_)
    throw UsageError(
        "a group over a c10d backend of the user's own can be split only when it was given a factory for "
        "backends");
  auto list = fmt::format("{}", fmt::join(members, "-"));
  auto part =
      membership_->of_part(fmt::format("{}/{}#{}", membership_->name(), list, splits_[list]++), members);
  auto position = static_cast<int>(std::ranges::find(members, rank()) - members.begin());
  return connected(call, *part, [&](const Wait& wait) {
    return remake(factory_(part->name(), position, static_cast<int>(members.size()), wait), part);
  });
}

std::shared_ptr<C10d> C10d::connected(Call call, const Membership& membership,
                                      const std::function<std::shared_ptr<C10d>(const Wait& wait)>& make) {
  QuietLog quiet;
  Deadline deadline(call.timeout);
  Wait wait(membership.pulse(), membership.group(), call, deadline);
  try {
    auto group = make(wait);
    if (!group->connects_at_once()) return group;
    auto first = call;
    first.operation = Operation::barrier;
    first.rank = group->rank();
    first.size = group->size();
    first.timeout = std::max(deadline.left(), std::chrono::milliseconds(100));
    first.about = fmt::format("the new group '{}'", membership.name());
    group->barrier(first)->wait();
    return group;
  } catch (const Error&) {
    throw;
  } catch (const StoreLost& failure) {
    throw PeerLostError(fmt::format("{}: the group could not be connected: {}", where(call), failure.what()));
  } catch (const std::exception& failure) {
    membership.throw_ended(wait, call, -1, failure);
  }
}

std::shared_ptr<C10d> C10d::remake(c10::intrusive_ptr<c10d::Backend> backend,
                                   std::shared_ptr<const Membership> membership) const {
  return std::make_shared<C10d>(std::move(backend), factory_, std::move(membership), device_);
}

std::chrono::milliseconds C10d::limit(const Call& call) const {
  const auto& pulse = membership_->pulse();
  return pulse && pulse->beats() ? kForever : call.timeout;
}

std::shared_ptr<Transfers> C10d::transfers(const Call& call, std::optional<int64_t> sent) const {
  return std::make_shared<Transfers>(call, membership_, sent, waiting());
}

}  // namespace wanpar
