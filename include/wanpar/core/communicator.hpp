#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/pending.hpp>
#include <wanpar/core/reduce_op.hpp>
#include <wanpar/extend/core/transport.hpp>

#include <chrono>
#include <memory>
#include <source_location>
#include <span>
#include <string>
#include <vector>

namespace wanpar {

/// A tensor to receive from a rank.
struct Receive {
  std::vector<int64_t> shape;
  at::TensorOptions options;
  int from;
};

/// A tensor to send to a rank.
struct Send {
  at::Tensor tensor;
  int to;
};

/// A group of ranks; cheap to copy. Validates each call and passes it to its Transport.
///
/// Each call is collective: every rank of the group makes it, in the same order and, unless stated otherwise,
/// with the same arguments. Inputs are captured at the call; later writes to them have no effect. To avoid a
/// copy, move in a tensor that nobody else holds. A group of one rank returns the input tensor at once. A
/// communicator may be used by one thread at a time. Tensors that require a gradient are rejected:
/// collectives are not differentiable.
///
/// Calls throw Error: at once for invalid arguments (UsageError) or calls that differ between ranks
/// (MismatchError), from get() for a transfer that failed (PeerLostError) or timed out (TimeoutError). The
/// timeout starts with the call, and anew whenever a rank of the run sends a heartbeat, so that a slow but
/// healthy rank is waited for, however long it takes. Without heartbeats (ConnectOptions), and over a c10d
/// backend of your own, it starts with the call only.
class Communicator {
 public:
  using Site = std::source_location;

  /// A group of one: this process alone.
  Communicator();
  explicit Communicator(std::shared_ptr<Transport> transport,
                        std::chrono::milliseconds timeout = std::chrono::seconds(60));

  int rank() const;
  int size() const;
  std::chrono::milliseconds timeout() const;
  /// The device that tensors must be on; the CPU if the transport accepts any device.
  at::Device device() const;
  /// The same group with another timeout.
  Communicator with_timeout(std::chrono::milliseconds timeout) const;
  /// The same group with a label for its calls ("unit 'blocks.3'"): errors show it, and `checked` compares
  /// it.
  Communicator about(std::string what) const;
  const std::shared_ptr<Transport>& transport() const;

  /// Collective. The elementwise reduction of x [any shape] over the ranks, on every rank.
  Pending<at::Tensor> all_reduce(at::Tensor x, ReduceOp op = ReduceOp::sum,
                                 Site site = Site::current()) const;

  /// Collective. The ranks' x, concatenated along `dim` in rank order; `sizes` are their extents, equal by
  /// default.
  Pending<at::Tensor> all_gather(at::Tensor x, int64_t dim = 0, std::span<const int64_t> sizes = {},
                                 Site site = Site::current()) const;

  /// Collective. This rank's shard along `dim` of the reduction of x; `sizes` are the extents of the shards,
  /// equal by default.
  Pending<at::Tensor> reduce_scatter(at::Tensor x, int64_t dim = 0, std::span<const int64_t> sizes = {},
                                     ReduceOp op = ReduceOp::sum, Site site = Site::current()) const;

  /// Collective. Splits x along `split_dim` into one piece per rank (`split_sizes`), and concatenates the
  /// received pieces along `concat_dim` (`concat_sizes`). Sizes are equal by default.
  Pending<at::Tensor> all_to_all(at::Tensor x, int64_t split_dim, int64_t concat_dim,
                                 std::span<const int64_t> split_sizes = {},
                                 std::span<const int64_t> concat_sizes = {},
                                 Site site = Site::current()) const;

  /// Collective. As above, for data packed by the caller: x [sum of send] holds the pieces for rank 0, 1, …
  /// one after the other, the result [sum of receive] those from rank 0, 1, … Counts are in elements and may
  /// differ by rank.
  Pending<at::Tensor> all_to_all_packed(at::Tensor x, std::span<const int64_t> send,
                                        std::span<const int64_t> receive, Site site = Site::current()) const;

  /// Collective. The root's x on every rank; the others pass one of the same shape and dtype.
  Pending<at::Tensor> broadcast(at::Tensor x, int root = 0, Site site = Site::current()) const;

  /// Collective over the ranks involved. Sends and receives as one group, in any pattern, without deadlock.
  Pending<std::vector<at::Tensor>> exchange(std::vector<Send> sends, std::vector<Receive> receives,
                                            Site site = Site::current()) const;

  /// Collective. Blocks until every rank has called it.
  void barrier(Site site = Site::current()) const;

  /// Signals to the other ranks that this one has failed: on a `checked` group, the next call of each that
  /// involves this rank throws AgreedError with `why` instead of waiting; on others they wait until the
  /// timeout. After all ranks have thrown, the group is usable again. A rank that has started a later forward
  /// of a wrapped module no longer depends on this one, and does not throw. Does not block, never throws.
  void fail(const std::string& why, Site site = Site::current()) const;
  /// The number of fail() calls of this rank.
  uint64_t failures() const;
  /// Marks a forward of a wrapped module for as long as the result lives; nested forwards are part of it. A
  /// failure is signalled only to ranks that have not started the next forward: the others no longer depend
  /// on this one.
  [[nodiscard]] std::shared_ptr<void> forward() const;
  /// A number that changes with every failure this rank has signalled or received. When it changes, reset all
  /// state that ranks keep in lockstep from call to call.
  uint64_t disturbances() const;

  /// Collective. The group of the ranks that passed the same colour, ordered by key, then by rank.
  Communicator split(int64_t colour, int64_t key = 0, Site site = Site::current()) const;

  /// Collective over `members` only. Their group, in the given order; every member passes the same list.
  Communicator subgroup(std::span<const int> members, Site site = Site::current()) const;

 private:
  struct Group;
  Call call(Operation operation, at::ScalarType dtype, std::vector<int64_t> shape, Site site) const;
  template <class Begin>
  std::shared_ptr<Work> begun(const Call& call, const Begin& begin) const;
  template <class T>
  Pending<T> pending(std::shared_ptr<Work> work, std::function<T()> finish) const;

  std::shared_ptr<Group> group_;
};

/// Splits n into `parts` sizes that differ by at most one, the larger ones first: 7 by 3 is 3, 2, 2.
std::vector<int64_t> even_sizes(int64_t n, int64_t parts);

}  // namespace wanpar
