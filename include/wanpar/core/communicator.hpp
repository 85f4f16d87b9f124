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

/// A tensor that is to come from a rank.
struct Receive {
  std::vector<int64_t> shape;
  at::TensorOptions options;
  int from;
};

/// A tensor that is to go to a rank.
struct Send {
  at::Tensor tensor;
  int to;
};

/// Who talks: a group of ranks, as a cheap value. It checks each call once and hands it to its Transport.
///
/// Each call is collective: every rank of the group makes it, in the same order, with the same arguments
/// where not said otherwise. Inputs are taken as they are at the call; what the caller writes to them later,
/// nobody sees. Move a tensor in that nobody else holds, and no copy is made. Groups of one rank return at
/// once, and what they return is the tensor that was given. Calls of one communicator come from one thread at
/// a time. They throw Error: at once for arguments that do not fit, from get() for a transfer that failed or
/// was not complete when the timeout was over, which begins with the call. Values carry no gradient: a tensor
/// that would need one is refused.
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
  /// Where a tensor must lie that this group is to move; the CPU where any device will do.
  at::Device device() const;
  /// The same group with another timeout for calls to come.
  Communicator with_timeout(std::chrono::milliseconds timeout) const;
  /// The same group, whose calls to come say what they are about: errors tell it, and `checked` compares it.
  Communicator about(std::string what) const;
  const std::shared_ptr<Transport>& transport() const;

  /// Collective. x [any shape] reduced over the ranks elementwise, the same on each.
  Pending<at::Tensor> all_reduce(at::Tensor x, ReduceOp op = ReduceOp::sum,
                                 Site site = Site::current()) const;

  /// Collective. The ranks' x in rank order along `dim`; `sizes` are their extents there, all alike where
  /// left out.
  Pending<at::Tensor> all_gather(at::Tensor x, int64_t dim = 0, std::span<const int64_t> sizes = {},
                                 Site site = Site::current()) const;

  /// Collective. This rank's piece along `dim` of the ranks' x reduced; `sizes` are the pieces, all alike
  /// where left out.
  Pending<at::Tensor> reduce_scatter(at::Tensor x, int64_t dim = 0, std::span<const int64_t> sizes = {},
                                     ReduceOp op = ReduceOp::sum, Site site = Site::current()) const;

  /// Collective. Trades shards: x is cut along `cut` into one piece a rank (`cut_sizes`), the pieces that
  /// come are joined along `join` (`join_sizes`). Extents are all alike where left out.
  Pending<at::Tensor> all_to_all(at::Tensor x, int64_t split_dim, int64_t concat_dim,
                                 std::span<const int64_t> split_sizes = {},
                                 std::span<const int64_t> concat_sizes = {},
                                 Site site = Site::current()) const;

  /// Collective. As above for data packed by the caller: x [sum of send] holds the pieces for rank 0, 1, …
  /// one behind the other, the result [sum of receive] those from rank 0, 1, … Counts are in elements and
  /// differ by rank.
  Pending<at::Tensor> all_to_all_packed(at::Tensor x, std::span<const int64_t> send,
                                        std::span<const int64_t> receive, Site site = Site::current()) const;

  /// Collective. The root's x on every rank; the others give one of the same shape and dtype.
  Pending<at::Tensor> broadcast(at::Tensor x, int root = 0, Site site = Site::current()) const;

  /// Collective over the ranks it names. Sends and receives as one group, in any pattern, without deadlock.
  Pending<std::vector<at::Tensor>> exchange(std::vector<Send> sends, std::vector<Receive> receives,
                                            Site site = Site::current()) const;

  /// Collective, blocks until every rank has come here.
  void barrier(Site site = Site::current()) const;

  /// Tells the other ranks that this one has failed: the call that each of them makes next with this rank
  /// throws AgreedError with `why`, instead of waiting. So do groups that are `checked`; on others they wait
  /// until the timeout. When each rank has thrown, all may go on together. A rank that has begun a later
  /// forward of a wrapped module had all that it needed, and does not throw. Does not wait, and throws
  /// nothing.
  void fail(const std::string& why, Site site = Site::current()) const;
  /// How often this rank has called fail().
  uint64_t failures() const;
  /// While what it gives lives, this rank is in one forward of a wrapped module; forwards in it are a part of
  /// it. A failure concerns the ranks that have not begun the next one: who has, had all that it needed.
  [[nodiscard]] std::shared_ptr<void> forward() const;
  /// Another number after each failure that this rank has told or was told: what ranks do alike from call to
  /// call, by what they remember, they begin anew.
  uint64_t disturbances() const;

  /// Collective. The groups of ranks that gave the same colour, ordered by key, then by rank.
  Communicator split(int64_t colour, int64_t key = 0, Site site = Site::current()) const;

  /// Collective over `members` alone: their group, in the order given. Each member gives the same list.
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

/// How n things are shared by `parts` as evenly as whole numbers allow, the longer shares first: 7 by 3 is 3,
/// 2, 2.
std::vector<int64_t> even_sizes(int64_t n, int64_t parts);

}  // namespace wanpar
