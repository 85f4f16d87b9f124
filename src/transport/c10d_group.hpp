#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include <wanpar/extend/transport/pairwise.hpp>
#include "transport/c10d_membership.hpp"
#include "transport/c10d_transfers.hpp"

namespace wanpar {

/// Makes the backend of a group, and connects its ranks within the limits of `wait`.
using MakeBackend = std::function<c10::intrusive_ptr<c10d::Backend>(const std::string& name, int rank,
                                                                    int size, const Wait& wait)>;

c10d::ReduceOp reduce_op(ReduceOp op);

/// Adapts a c10d process group to Transport.
class C10d : public Pairwise {
 public:
  C10d(c10::intrusive_ptr<c10d::Backend> backend, MakeBackend factory,
       std::shared_ptr<const Membership> membership, std::string device);

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }
  std::string device() const override { return device_; }

  /// Accumulates half types in float32 on the CPU, as between threads: the sum from which a mean is computed
  /// could exceed the range of float16.
  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override;
  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override;
  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override;
  std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) override;

  /// The group that `make` makes. With Gloo it is returned when every rank is connected to all others: if one
  /// dropped it earlier, Gloo would close it on ranks that are still connecting. Other backends connect in
  /// their first call.
  static std::shared_ptr<C10d> connected(Call call, const Membership& membership,
                                         const std::function<std::shared_ptr<C10d>(const Wait& wait)>& make);

 protected:
  virtual std::shared_ptr<C10d> remake(c10::intrusive_ptr<c10d::Backend> backend,
                                       std::shared_ptr<const Membership> membership) const;

  /// Whether the backend can reduce to a mean itself.
  virtual bool has_mean() const { return false; }
  /// How its transfers are waited for.
  virtual Waiting waiting() const { return {}; }
  /// A lock for backends whose calls must not start concurrently.
  virtual std::unique_lock<std::mutex> turn_to_start() const { return {}; }
  virtual bool connects_at_once() const { return false; }

  /// The timeout for backends that enforce one themselves.
  std::chrono::milliseconds limit(const Call& call) const;
  std::shared_ptr<Transfers> transfers(const Call& call, std::optional<int64_t> sent = {}) const;

  template <class Begin>
  std::shared_ptr<Work> one(at::Tensor keep, const Call& call, Begin begin) const {
    membership_->begin(call);
    auto work = transfers(call);
    work->add(-1, std::move(keep), begin);
    return work;
  }

  c10::intrusive_ptr<c10d::Backend> backend_;
  MakeBackend factory_;
  std::shared_ptr<const Membership> membership_;  // is destroyed before the backend

 private:
  std::string device_;
  std::vector<int> sent_, received_;  // tags, counted equally on both sides of each pair
  std::map<std::string, int> splits_;
};

}  // namespace wanpar
