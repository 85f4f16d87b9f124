#pragma once
#include <stdexcept>

namespace wanpar {

/// The exception that wanpar throws: a sentence that says what went wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An Error that all ranks of a group throw, with the sentence of the one that failed: any of them may say
/// it.
class AgreedError : public Error {
 public:
  using Error::Error;
};

}  // namespace wanpar
