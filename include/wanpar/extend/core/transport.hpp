#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/extend/core/call.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace wanpar {

/// A transfer in flight; it keeps its tensors alive.
class Work {
 public:
  virtual ~Work() = default;
  /// Blocks until the transfer is complete. Throws Error, which names the missing rank if it is known.
  virtual void wait() = 0;
  /// Bytes that it sends from this rank; nullopt if the transport does not know, because a library's
  /// collective sends them.
  virtual std::optional<int64_t> sent() const { return {}; }
};

/// A tensor to send to or receive from `peer`, as bytes; `dtype` and `shape` describe the caller's tensor.
struct Message {
  at::Tensor tensor;
  int peer;
  at::ScalarType dtype = at::kByte;
  std::vector<int64_t> shape = {};
};

/// Moves bytes between the ranks of a group: the interface behind every Communicator.
///
/// All calls are asynchronous and collective over the group (exchange: over the peers involved). Tensors are
/// flat, contiguous and validated, and nobody writes to an input while the Work lives. Data is in bytes
/// (uint8 tensors, counts in bytes), except in the two reductions, which have a dtype (counts in elements).
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// The device that tensors must be on ("cpu", "cuda"); empty if any device will do.
  virtual std::string device() const = 0;
  /// Whether a call returns only after the other ranks involved have started it too.
  virtual bool begins_together() const { return false; }

  virtual std::shared_ptr<Work> all_reduce(at::Tensor out, at::Tensor in, const Call& call) = 0;
  virtual std::shared_ptr<Work> all_gather(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                           const Call& call) = 0;
  virtual std::shared_ptr<Work> reduce_scatter(at::Tensor out, at::Tensor in, std::span<const int64_t> counts,
                                               const Call& call) = 0;
  virtual std::shared_ptr<Work> all_to_all(at::Tensor out, at::Tensor in, std::span<const int64_t> out_counts,
                                           std::span<const int64_t> in_counts, const Call& call) = 0;
  virtual std::shared_ptr<Work> broadcast(at::Tensor tensor, const Call& call) = 0;
  virtual std::shared_ptr<Work> exchange(std::vector<Message> sends, std::vector<Message> receives,
                                         const Call& call) = 0;
  virtual std::shared_ptr<Work> barrier(const Call& call) = 0;

  /// Signals to the other ranks that this one has failed and will not make the calls that they wait for: each
  /// learns of it in its next call with this rank. Does not block. No-op if the transport cannot.
  virtual void fail(const std::string& /*why*/, const Call& /*call*/) {}

  /// A group of `members`, in the given order; called by each member and by no other rank.
  virtual std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) = 0;
};

}  // namespace wanpar
