#pragma once
#include <stdexcept>
#include <string>

namespace wanpar {

/// The exception that wanpar throws: its message says what went wrong, where, and what to do. The classes
/// below say whether trying again may succeed; an Error that is none of them is about a file or memory, for
/// example.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The request is impossible: an argument, an option, a module or the environment is wrong. Trying again
/// fails again.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// A rank that is needed has exited, stopped or is unreachable; its own error says more. A new run may
/// succeed.
class PeerLostError : public Error {
 public:
  using Error::Error;
};

/// A live rank did not arrive within the timeout: ranks wait for each other, or it is busy.
class TimeoutError : public Error {
 public:
  using Error::Error;
};

/// The ranks do different things where all must do the same. Trying again fails again.
class MismatchError : public virtual Error {
 public:
  explicit MismatchError(const std::string& sentence) : Error(sentence) {}
};

/// An Error that all ranks of a group throw, with the message of the rank that failed: reporting one of them
/// is enough.
class AgreedError : public virtual Error {
 public:
  explicit AgreedError(const std::string& sentence) : Error(sentence) {}
};

/// A mismatch that all ranks have found alike.
class AgreedMismatchError : public AgreedError, public MismatchError {
 public:
  explicit AgreedMismatchError(const std::string& sentence)
      : Error(sentence), AgreedError(sentence), MismatchError(sentence) {}
};

}  // namespace wanpar
