#pragma once
#include <wanpar/extend/core/transport.hpp>

#include <functional>
#include <memory>

namespace wanpar {

/// A transport that observes the calls of another one, and the payload that leaves this rank.
///
/// Payload is the bytes of messages, counted as they are sent. For a library's own collective it is the bytes
/// of the bandwidth-optimal algorithm, not a measurement: all_reduce 2 (n − 1) / n · x, broadcast (n − 1) · x
/// at the root, all_gather (n − 1) · own shard, reduce_scatter all but the own shard.
class Observing : public Transport {
 public:
  explicit Observing(std::shared_ptr<Transport> inner) : inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::string device() const override { return inner_->device(); }
  bool begins_together() const override { return inner_->begins_together(); }

  std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) override;
  std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                   const Call& call) override;
  std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                       const Call& call) override;
  std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                   std::span<const int64_t> in_counts, const Call& call) override;
  std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) override;
  std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                 const Call& call) override;
  std::shared_ptr<Work> barrier(const Call& call) override;
  void fail(const std::string& why, const Call& call) override { inner_->fail(why, call); }
  std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) override {
    return around(inner_->split(members, call));
  }

 protected:
  using Begin = std::function<std::shared_ptr<Work>()>;
  /// Starts a call and returns its work, or a wrapper of it; `bytes` returns the bytes that it sends.
  using Bytes = std::function<int64_t(const Work&)>;
  virtual std::shared_ptr<Work> seen(const Call& call, const Begin& begin, const Bytes& bytes) = 0;
  /// As above, for a subgroup.
  virtual std::shared_ptr<Transport> around(std::shared_ptr<Transport> part) const = 0;

 private:
  std::shared_ptr<Transport> inner_;
};

}  // namespace wanpar
