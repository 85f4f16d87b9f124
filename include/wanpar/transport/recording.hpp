#pragma once
#include <wanpar/core/communicator.hpp>

#include <map>
#include <memory>

namespace wanpar {

/// What went through one operation: how often it was called, and the payload that left for other ranks, in
/// bytes.
struct Traffic {
  int64_t calls = 0;
  int64_t bytes = 0;
};

/// Counts what the ranks send. One Recording may be shared by several communicators and by thread ranks.
///
/// Payload is the messages that the transport sent, each counted as it leaves: among thread ranks all of
/// them, over c10d those between pairs. For what a library's collective moves by itself (the all-reduce and
/// broadcast of Gloo and NCCL, NCCL's even gathers and scatters) it is the figure of the bandwidth-optimal
/// algorithm, not a measurement: all_reduce 2 (n − 1) / n · x, broadcast (n − 1) · x at the root, all_gather
/// (n − 1) · own piece, reduce_scatter all but the own piece.
class Recording {
 public:
  Recording();

  /// The same group, counted; so are the groups split from it.
  Communicator operator()(const Communicator& communicator) const;

  std::map<Operation, Traffic> totals() const;
  /// All operations together.
  Traffic total() const;
  void clear();

 private:
  struct Book;
  class Recorder;
  std::shared_ptr<Book> book_;
};

}  // namespace wanpar
