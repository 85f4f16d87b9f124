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

/// A transfer under way; it keeps its tensors alive.
class Work {
 public:
  virtual ~Work() = default;
  /// Blocks until the transfer is complete. Throws Error, which names the rank that is missing where known.
  virtual void wait() = 0;
  /// Bytes of the messages that it takes from this rank to others; nothing where the transport does not know,
  /// because a library's collective makes them.
  virtual std::optional<int64_t> sent() const { return {}; }
};

/// One tensor to or from one rank, as bytes, and what the caller says that they are.
struct Message {
  at::Tensor tensor;
  int peer;
  at::ScalarType dtype = at::kByte;
  std::vector<int64_t> shape = {};
};

/// How bytes move between the ranks of a group: the one interface behind every Communicator.
///
/// All calls are asynchronous and collective over the group (exchange: over the peers that it names). Tensors
/// are flat, contiguous, checked, and nobody writes to an input while the Work lives. Movement is in bytes
/// (uint8 tensors, counts in bytes); only the two reductions know a dtype (counts in elements).
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Where its tensors live, as errors name it ("cpu", "cuda"), or empty where any device will do.
  virtual std::string device() const = 0;
  /// Whether a call returns only after the ranks that it concerns have begun it too.
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

  /// This rank has failed and makes none of the calls that others wait for: tells each of them, in the place
  /// of the call that it makes next with this rank. Does not wait. Nothing where a transport cannot.
  virtual void fail(const std::string& /*why*/, const Call& /*call*/) {}

  /// A group of some ranks of this one, in the order given; called by each member, by nobody else.
  virtual std::shared_ptr<Transport> split(std::span<const int> members, const Call& call) = 0;
};

}  // namespace wanpar
