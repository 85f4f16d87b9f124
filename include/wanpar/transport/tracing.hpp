#pragma once
#include <wanpar/core/communicator.hpp>

#include <memory>
#include <string>

namespace wanpar {

/// Writes down when this rank computes, transfers and waits, one for each rank, from the thread that makes it
/// and ends it. While it lives, the user's scopes of LibTorch's profiler on that thread (RECORD_USER_SCOPE;
/// the strategies have some) are written down too.
///
/// What comes out is in Chrome's trace format, which Perfetto opens: a process for each rank, and in it a
/// track with what its thread does, one inside the other (scopes, "compute", "begin" and "wait" of a call),
/// and its transfers, from their begin until they were waited for, with the bytes that Recording counts.
class Tracing {
 public:
  Tracing();
  ~Tracing();
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;

  /// The same group, traced; so are the groups split from it. The first one says which rank this is.
  Communicator operator()(const Communicator& communicator);

  /// Collective. The trace of all ranks of a group on its rank 0, nothing on the others. Clocks are those of
  /// the hosts.
  std::string of_all(const Communicator& group) const;

 private:
  struct Book;
  class Tracer;
  class TracedWork;
  std::shared_ptr<Book> book_;
  uint64_t scopes_;
};

}  // namespace wanpar
