#pragma once
#include <stdexcept>

namespace wanpar {

/// The exception that wanpar throws: its message says what went wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An Error that all ranks of a group throw, with the message of the rank that failed: reporting one of them
/// is enough.
class AgreedError : public Error {
 public:
  using Error::Error;
};

}  // namespace wanpar
