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
/// Payload is what an operation must move, whatever way the transport moves it: all_gather (n − 1) · own
/// piece, reduce_scatter all but the own piece, all_to_all and exchange what goes to others, broadcast (n −
/// 1) · x at the root, all_reduce 2 (n − 1) / n · x.
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
