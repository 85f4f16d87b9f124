#pragma once

namespace wan {

/// Work to be done before the constructors of LibTorch and its OpenMP run, which read their environment
/// there, and abort if memory is short: a program puts this function into its .preinit_array.
///
/// Makes waiting threads sleep soon instead of spinning, unless the environment says otherwise: on shared
/// cores, spinning threads slow down those that they wait for. If memory limits (ulimit -v, -d) are too low
/// to start at all, ends the process with exit code 1 and a message.
void before_main(int count, char** words, char** environment);

}  // namespace wan
