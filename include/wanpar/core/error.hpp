#pragma once
#include <stdexcept>

namespace wanpar {

/// The one exception that wanpar throws: a sentence that says what went wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace wanpar
