#pragma once
#include <wanpar/core/error.hpp>

namespace wan {

/// The command line is invalid; programs exit with 2.
class UsageError : public wanpar::Error {
 public:
  using wanpar::Error::Error;
};

}  // namespace wan
